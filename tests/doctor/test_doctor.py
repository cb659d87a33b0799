"""`tci doctor` as operators run it: real sandboxes, attacks that hold, planted ones that do not, nothing left."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CACHE, Service, clean_environment, docker_answers
from tests.sandbox import processes

SECONDS = 120

PLANT = """
import sys
from tci.cli import main
from tci.doctor import attacks
class Planted(attacks.Attack):
    def code(self, target):
        return self.source
attacks.ATTACKS = tuple(Planted(f"planted {at}", "nothing", code) for at, code in enumerate(sys.argv[1:]))
sys.argv[1:] = ["doctor", "--json"]
main()
"""
"""Runs `tci doctor --json` with the attacks that are its arguments."""


@pytest.fixture
def environment(driver: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The shipped defaults on a data directory without a database; whatever a doctor leaves there fails the test."""
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    (data_dir / "environments").symlink_to(CACHE / "environments")
    yield clean_environment(data_dir, sandbox=driver)
    assert left_of(data_dir) == []


def left_of(data_dir: Path) -> list[str]:
    """Return what is there that was not there before: files, processes, containers."""
    found = [path.name for path in data_dir.iterdir() if path.name != "environments"]
    running = processes.with_command(str(data_dir)) | processes.in_directory(data_dir) | processes.jailed(data_dir)
    return found + [f"process {pid}" for pid in sorted(running)] + containers_on(data_dir)


def containers_on(data_dir: Path) -> list[str]:
    """Return the containers that have something of a directory mounted."""
    if not docker_answers():
        return []
    ids = subprocess.check_output(["docker", "ps", "--all", "--quiet", "--filter", "label=tci.deployment"], text=True)
    shown = ["docker", "inspect", "--format", "{{.Name}} {{.HostConfig.Binds}}", *ids.split()]
    # One that another test removes meanwhile is an error, and nothing of ours.
    lines = subprocess.run(shown, check=False, capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if str(data_dir) in line]


def doctor(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tci", "doctor", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS, cwd=environment["HOME"]
    )


def planted(environment: dict[str, str], *codes: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the doctor with attacks of one's own; return its status and what it says of them."""
    command = [sys.executable, "-c", PLANT, *codes]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS, cwd=environment["HOME"]
    )
    return result.returncode, json.loads(result.stdout)["attacks"]


def test_shipped_defaults_have_no_hole(environment: dict[str, str]) -> None:
    result = doctor(environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Holes: 0." in result.stdout
    assert "HOLE" not in result.stdout
    assert "Traceback" not in result.stderr
    assert "Attacking: " in result.stderr


def test_json_holds_every_finding_and_nothing_else_is_on_stdout(environment: dict[str, str], driver: str) -> None:
    result = doctor(environment, "--json")
    report = json.loads(result.stdout)
    assert report["counts"]["hole"] == 0
    assert sum(report["counts"].values()) == len(report["findings"]) + len(report["attacks"])
    assert [finding["found"] for finding in report["findings"] if finding["subject"] == "driver"] == [
        f"{driver} (set by TCI_SANDBOX)"
    ]
    assert {attack["level"] for attack in report["attacks"]} == {"ok"}
    assert all(attack["tried"] for attack in report["attacks"])
    assert all(finding["mend"] for finding in report["findings"] if finding["level"] != "ok")


def test_attack_that_gets_out_is_a_named_hole(environment: dict[str, str]) -> None:
    status, attacks = planted(environment, "print('held: by itself')", "print('noise')\nprint('open: the moon')")
    assert status == 1
    assert [(attack["level"], attack["subject"], attack["found"]) for attack in attacks] == [
        ("ok", "planted 0", "by itself"),
        ("hole", "planted 1", "the moon"),
    ]


def test_attack_without_a_verdict_is_a_hole_and_the_next_gets_a_sandbox_that_lives(environment: dict[str, str]) -> None:
    codes = ("1 / 0", "print('hello')", "import os\nos.kill(os.getpid(), 9)", "print('held: still here')")
    status, attacks = planted(environment, *codes)
    assert status == 1
    assert [(attack["level"], attack["found"]) for attack in attacks] == [
        ("hole", "it said ZeroDivisionError: division by zero"),
        ("hole", "it said hello"),
        ("hole", "no verdict: the kernel ended"),
        ("ok", "still here"),
    ]


def test_data_directory_that_others_may_read_is_a_named_hole(environment: dict[str, str]) -> None:
    Path(environment["TCI_DATA_DIR"]).chmod(0o755)
    result = doctor(environment)
    assert result.returncode == 1
    assert "HOLE  data directory" in result.stdout
    assert f"chmod 0700 {environment['TCI_DATA_DIR']}" in " ".join(result.stdout.split())


def test_sandbox_that_can_not_be_launched_is_a_hole_and_the_rest_is_shown(environment: dict[str, str]) -> None:
    result = doctor(environment | {"TCI_DOCKER_HOST": "unix:///nonexistent", "TCI_SANDBOX": "docker"})
    assert result.returncode == 1
    assert "HOLE  sandbox" in result.stdout
    assert "ok    kernel" in result.stdout


def test_doctor_beside_a_running_service_touches_none_of_its_sessions(start_service: Callable[..., Service]) -> None:
    service = start_service()
    session_id = service.run("x = 42")["session_id"]
    before = sorted(path.name for path in service.data_dir.iterdir())
    result = doctor(service.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert sorted(path.name for path in service.data_dir.iterdir()) == before
    assert service.stdout("print(x)", session_id) == "42\n"
    assert len(containers_on(service.data_dir)) <= 1


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT] * 3, [signal.SIGTERM]])
@pytest.mark.parametrize("stage", ["launching", "attacking"])
def test_doctor_that_is_stopped_leaves_nothing(
    environment: dict[str, str], tmp_path: Path, stage: str, signals: list[signal.Signals]
) -> None:
    data_dir, said = tmp_path / "data", tmp_path / "said"
    with said.open("w") as log:
        command = [sys.executable, "-c", PLANT, "import time\ntime.sleep(60)"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        assert processes.eventually(lambda: bool(list(data_dir.glob("doctor-*/run/sbx_*"))), 60), said.read_text()
        [sandbox] = data_dir.glob("doctor-*/run/sbx_*")
        if stage == "attacking":
            assert processes.eventually(lambda: "Attacking" in said.read_text(), 60), said.read_text()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.1)
        # One more Ctrl-C may come when all is cleaned up and Python itself is ending.
        assert process.wait(timeout=60) in (130, -signal.SIGINT), said.read_text()
    finally:
        process.kill()
    assert list(Path("/sys/fs/cgroup").glob(f"**/*{sandbox.name}*")) == []
    assert "Traceback" not in said.read_text()
