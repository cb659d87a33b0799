"""One keeper a sandbox, and another one when it dies."""

import subprocess
import sys
from pathlib import Path

import pytest

from tci.sandbox.keepers import Keepers

CHILD = """
import sys
from pathlib import Path
from tci.sandbox.keepers import Keepers
keepers = Keepers(Path(sys.argv[1]))
print([keepers.keep(name) for name in ("sbx_a", "sbx_b")], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keepers"


def start(directory: Path) -> subprocess.Popen[str]:
    """Start another process that keeps two sandboxes."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(directory)], text=True, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "[True, True]\n"
    return process


def test_sandbox_has_one_keeper_until_that_dies(directory: Path) -> None:
    with start(directory) as other:
        mine = Keepers(directory)
        assert not mine.keep("sbx_a")
        assert mine.take_abandoned() == []
        other.kill()
        other.wait()
        assert sorted(mine.take_abandoned()) == ["sbx_a", "sbx_b"]
        assert mine.take_abandoned() == []
        assert mine.kept == {"sbx_a", "sbx_b"}


def test_sandbox_that_is_let_go_is_taken_and_one_that_is_forgotten_is_not(directory: Path) -> None:
    first, second = Keepers(directory), Keepers(directory)
    assert first.keep("sbx_a")
    assert first.keep("sbx_b")
    first.let_go("sbx_a")
    first.forget("sbx_b")
    assert second.take_abandoned() == ["sbx_a"]
    assert first.take_abandoned() == []
    second.close()
    assert first.take_abandoned() == ["sbx_a"]


def test_file_removed_while_it_was_opened_is_not_the_lock(directory: Path) -> None:
    """Who waits at a file that its keeper removes would else hold a lock that nobody can see."""
    first, second = Keepers(directory), Keepers(directory)
    first.keep("sbx_a")
    first.forget("sbx_a")
    assert second.keep("sbx_a")
    assert not first.keep("sbx_a")
