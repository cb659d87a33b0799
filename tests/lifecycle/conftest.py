"""What a service leaves behind, and starts that must fail."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Service, docker_answers
from tests.sandbox import processes
from tests.storage import servers

END_SECONDS = 25
"""How long a start that must fail may take; two seconds are usual."""


@dataclass(frozen=True)
class FailedStart:
    """How a service that could not start ended."""

    status: int
    said: str

    @property
    def sentences(self) -> list[str]:
        """What it said besides its log of what went well."""
        return [line for line in self.said.splitlines() if line.strip() and not is_harmless(line)]


def is_harmless(line: str) -> bool:
    """Whether a line is one of the log's that tell no failure."""
    try:
        return bool(json.loads(line)["level"] in ("debug", "info"))
    except (ValueError, KeyError, TypeError):
        return False


def failing_start(environment: dict[str, str], **settings: object) -> FailedStart:
    """Start a service that must end by itself."""
    changed = environment | {f"TCI_{name.upper()}": str(value) for name, value in settings.items()}
    home = Path(changed["HOME"])
    before = processes.in_directory(home)
    command = [sys.executable, "-m", "tci", "serve"]
    try:
        result = subprocess.run(
            command, env=changed, capture_output=True, text=True, timeout=END_SECONDS, check=False, cwd=home
        )
    except subprocess.TimeoutExpired as late:
        for pid in processes.in_directory(home) - before:
            os.kill(pid, signal.SIGKILL)
        pytest.fail(f"the service neither served nor ended: {late.stderr!r}")
    return FailedStart(result.returncode, result.stdout + result.stderr)


def refused(start: FailedStart, says: str) -> None:
    """Assert that a start ended with status 1 and one sentence that holds a text."""
    assert start.status == 1, start.said
    assert "Traceback" not in start.said
    assert len(start.sentences) == 1, start.said
    assert re.search(says, start.sentences[0]), start.said


def kill(service: Service) -> None:
    """End the service as a crash does."""
    service.client.close()
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()


def deployment(data_dir: Path) -> str:
    """Return the name of the installation with this data directory."""
    with closing(sqlite3.connect(data_dir / "tci.sqlite3")) as db:
        [[name]] = db.execute("SELECT id FROM deployment").fetchall() or [["none"]]
    return str(name)


def rows(data_dir: Path, query: str) -> list[tuple[object, ...]]:
    """Read the database of a service with an embedded one."""
    with closing(sqlite3.connect(data_dir / "tci.sqlite3")) as db:
        return list(db.execute(query).fetchall())


def change(data_dir: Path, statement: str, *values: str) -> None:
    """Change the database of a service that does not run."""
    with closing(sqlite3.connect(data_dir / "tci.sqlite3")) as db, db:
        db.execute(statement, values)


def containers(label: str) -> list[str]:
    """Return the names of a deployment's containers, running or not."""
    if not docker_answers():
        return []
    command = ["docker", "ps", "--all", "--format", "{{.Names}}", "--filter", f"label=tci.deployment={label}"]
    return subprocess.check_output(command, text=True).split()


def leftovers(data_dir: Path, label: str | None = None) -> list[str]:
    """Return what runs or is kept of a service: processes, containers, directories of sandboxes."""
    running = processes.with_command(str(data_dir)) | processes.in_directory(data_dir) | processes.jailed(data_dir)
    found = [f"process {pid}" for pid in sorted(running)]
    found += [path.name for path in (data_dir / "run").iterdir()]
    return found + containers(label or deployment(data_dir))


def end_sandbox(driver: str, data_dir: Path, sandbox_id: str) -> None:
    """End a sandbox behind the service's back."""
    if driver == "docker":
        subprocess.run(["docker", "rm", "--force", f"tci-{sandbox_id}"], check=True, capture_output=True)
    else:
        state = json.loads((data_dir / "run" / sandbox_id / "sandbox.json").read_text())
        subprocess.run(["kill", "-9", str(state["pid"])], check=True)
        shutil.rmtree(data_dir / "run" / sandbox_id)  # without it the end is its kernel's, not a loss


@pytest.fixture(scope="session")
def new_postgresql() -> Iterator[Callable[[], str]]:
    """Makes PostgreSQL databases."""
    with servers.postgresql() as new_database:
        yield new_database


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis server."""
    with servers.redis() as url:
        yield url
