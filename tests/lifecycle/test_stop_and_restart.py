"""The real service is stopped, killed and started again: nothing is left, no session is lost."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.conftest import Service, file_of
from tests.lifecycle.conftest import change, containers, deployment, end_sandbox, kill, leftovers, rows
from tests.sandbox import processes

Start = Callable[..., Service]


def sandbox_of(data_dir: Path, session_id: str) -> str:
    """Return the id of a session's sandbox."""
    found = rows(data_dir, "SELECT id, sandbox_id FROM sessions")
    return next(str(sandbox) for session, sandbox in found if session == session_id)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_cleanly_and_leaves_nothing(start_service: Start, number: signal.Signals) -> None:
    service = start_service()
    code = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True); x = 1"
    ids = [service.run(code)["session_id"] for _ in range(2)]
    label = deployment(service.data_dir)
    assert len(leftovers(service.data_dir, label)) >= 5, "the check below would pass on anything"
    assert service.stop(number) == 0
    assert leftovers(service.data_dir, label) == []
    ended = rows(service.data_dir, "SELECT id, end_reason FROM sessions WHERE ended_at IS NOT NULL")
    assert sorted(ended) == sorted((session_id, "ended with the service") for session_id in ids)


def test_signal_while_code_runs_stops_cleanly(start_service: Start) -> None:
    service = start_service()
    session_id = service.run("x = 1")["session_id"]
    long_run = threading.Thread(target=run_and_lose, args=(service, session_id))
    long_run.start()
    time.sleep(0.5)
    started = time.monotonic()
    assert service.stop() == 0, service.log.read_text()[-3000:]
    assert time.monotonic() - started < 20
    long_run.join(timeout=20)
    assert leftovers(service.data_dir) == []
    assert "Traceback" not in (log := service.log.read_text()), log


def run_and_lose(service: Service, session_id: str) -> None:
    """Run code that the service will not wait for."""
    body = {"code": "import time; time.sleep(100)", "language": "python", "session_id": session_id}
    headers = {"Authorization": f"Bearer {service.key}"}
    with contextlib.suppress(httpx.TransportError):
        httpx.post(f"{service.url}/tci/execute", json=body, timeout=60, headers=headers)


def test_killed_service_starts_again_with_its_sessions(
    driver: str, service: Service, start_service: Start, tmp_path: Path
) -> None:
    """Live sessions go on, orphans are destroyed, lost ones end with a reason, neighbours are left alone."""
    neighbour = service.run("theirs = 'untouched'")["session_id"]
    first = start_service(tmp_path / "data")
    kept, lost, orphan = (first.run(f"mine = {name!r}")["session_id"] for name in ("kept", "lost", "orphan"))
    sandboxes = {name: sandbox_of(first.data_dir, name) for name in (kept, lost, orphan)}
    kill(first)
    assert len(list((first.data_dir / "run").iterdir())) == 3, "sandboxes go on without the service"
    end_sandbox(driver, first.data_dir, sandboxes[lost])
    change(first.data_dir, "DELETE FROM ledger WHERE session_id = ?", orphan)
    change(first.data_dir, "DELETE FROM sessions WHERE id = ?", orphan)

    second = start_service(tmp_path / "data")
    assert second.stdout("print(mine)", kept) == "kept\n"
    assert [path.name for path in (second.data_dir / "run").iterdir()] == [sandboxes[kept]]
    answer = second.post({"code": "1", "language": "python", "session_id": lost})
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert "its sandbox was lost" in answer.text
    listed = second.client.get("/tci/sessions").json()["data"]["sessions"]
    assert [session["id"] for session in listed] == [kept]
    assert service.stdout("print(theirs)", neighbour) == "untouched\n"
    if driver == "docker":
        assert containers(deployment(second.data_dir)) == [f"tci-{sandboxes[kept]}"]


def test_first_answer_after_a_restart_has_its_outputs(start_service: Start, tmp_path: Path) -> None:
    """A new connection must be subscribed before it runs anything."""
    service = start_service(tmp_path / "data")
    ids = [service.run("")["session_id"] for _ in range(5)]
    kill(service)
    service = start_service(tmp_path / "data")
    assert [service.stdout("print('here')", session_id) for session_id in ids] == ["here\n"] * 5


def test_redis_that_was_lost_with_the_service_is_refilled(start_service: Start, tmp_path: Path) -> None:
    service = start_service(tmp_path / "data", max_sandboxes=1)
    session_id = service.run("x = 7")["session_id"]
    kill(service)
    for pid in processes.in_directory(tmp_path / "data"):
        if "valkey" in Path(f"/proc/{pid}/comm").read_text():
            os.kill(pid, signal.SIGKILL)
    service = start_service(tmp_path / "data", max_sandboxes=1)
    assert service.stdout("print(x)", session_id) == "7\n"
    assert service.post({"code": "1", "language": "python"}).json()["error"]["code"] == "no_capacity"


def test_second_start_is_quick(start_service: Start, tmp_path: Path) -> None:
    assert start_service(tmp_path / "data").stop() == 0
    started = time.monotonic()
    start_service(tmp_path / "data")
    # About 4 s on two idle cores, migrations and start together; the bound only catches what waits for something.
    assert time.monotonic() - started < 30


def test_expired_session_is_swept_with_its_sandbox(start_service: Start) -> None:
    service = start_service(session_ttl_seconds=2, reap_interval_seconds=0.2)
    session_id = service.run("x = 1")["session_id"]
    run_dir = service.data_dir / "run"
    assert len(list(run_dir.iterdir())) == 1
    assert processes.eventually(lambda: list(run_dir.iterdir()) == [], 6)
    answer = service.post({"code": "x", "language": "python", "session_id": session_id})
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert "expired" in answer.text
    assert service.client.get("/tci/sessions").json()["data"]["sessions"] == []
    assert containers(deployment(service.data_dir)) == []
    assert rows(service.data_dir, "SELECT end_reason FROM sessions") == [("expired",)]


@pytest.mark.parametrize("seconds", [0.01, 0.15])
def test_sandbox_not_ready_in_time_leaves_nothing(start_service: Start, seconds: float) -> None:
    service = start_service(launch_timeout_seconds=seconds, max_sandboxes=1, max_sessions_per_account=1)
    before = leftovers(service.data_dir)
    for _ in range(3):  # a place that were not given back would answer 429 or 503
        answer = service.post({"code": "1", "language": "python"})
        assert answer.status_code == httpx.codes.GATEWAY_TIMEOUT, answer.text
        assert answer.json()["error"]["code"] == "sandbox_timeout"
    time.sleep(1)  # a launch that goes on behind the service's back would be done by now
    after = leftovers(service.data_dir)
    tidy(set(after) - set(before))
    assert after == before
    assert rows(service.data_dir, "SELECT * FROM sessions") == rows(service.data_dir, "SELECT * FROM ledger") == []


def tidy(left: set[str]) -> None:
    """End what a failing test found, so that it fails alone."""
    for line in left:
        if line.startswith("process "):
            subprocess.run(["kill", "-9", line.split()[1]], check=False)


def test_sessions_are_listed_and_ended_by_command(driver: str, start_service: Start) -> None:
    service = start_service()
    kept, ended = (service.run("x = 1")["session_id"] for _ in range(2))
    listed = service.tci("sessions", "list").stdout.splitlines()
    assert {line.split("\t")[0] for line in listed} == {kept, ended}
    assert service.tci("sessions", "end", ended).stdout == f"Session {ended} has ended.\n"
    answer = service.post({"code": "x", "language": "python", "session_id": ended})
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert "was ended on request" in answer.text
    assert service.stdout("print(x)", kept) == "1\n"
    assert [line.split("\t")[0] for line in service.tci("sessions", "list").stdout.splitlines()] == [kept]
    assert len(list((service.data_dir / "run").iterdir())) == 1
    if driver == "docker":
        assert len(containers(deployment(service.data_dir))) == 1
    for session_id in (ended, "ses_unknown"):
        again = tci_fails(service, "sessions", "end", session_id)
        assert again == f"tci: there is no live session {session_id}\n"


def tci_fails(service: Service, *arguments: str) -> str:
    """Run a command that must end with status 1, and return what it said."""
    command = [sys.executable, "-m", "tci", *arguments]
    result = subprocess.run(
        command, env=service.environment, capture_output=True, text=True, check=False, cwd=service.data_dir
    )
    assert result.returncode == 1
    return result.stdout + result.stderr


def test_logs_hold_no_code_output_or_key(start_service: Start) -> None:
    service = start_service(log_level="debug")
    secret = "SECRET" + "7391"
    session_id = service.run(f"print('{secret}'.lower() + '-out'); raise_later = '{secret}'")["session_id"]
    service.run(f"raise ValueError('{secret}-error')", session_id)
    service.run("open('f.txt').read()", session_id, files=[file_of("f.txt", secret)])
    service.post({"code": secret, "language": "python", "session_id": f"ses_{secret}", "unknown": secret})
    service.post({"code": [secret], "language": secret})
    service.client.post("/tci/execute", content=f'{{"code": "{secret}'.encode())
    service.client.get("/tci/sessions", headers={"Authorization": f"Bearer tci_{secret}"})
    service.client.get(f"/{secret}?key={secret}")
    other = service.new_key("other")
    service.run(f"import os; '{secret}'; os._exit(3)", session_id)
    log = service.log.read_text()
    assert session_id in log, "this is the log"
    for text in (secret, secret.lower(), service.key, other):
        assert text not in log
    kernel_keys = [str(key) for (key,) in rows(service.data_dir, "SELECT kernel_key FROM sessions")]
    assert kernel_keys
    assert not any(key in log for key in kernel_keys)
