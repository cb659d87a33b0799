"""The whole service on PostgreSQL and Redis: it serves the same, and its sessions outlive it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.conftest import Service
from tests.sandbox import processes

Start = Callable[..., Service]


def test_service_on_postgresql_and_redis_serves_the_same(
    start_service: Start, new_postgresql: Callable[[], str], redis_url: str, tmp_path: Path
) -> None:
    urls = {"database_url": new_postgresql(), "redis_url": redis_url}
    service = start_service(tmp_path / "data", **urls)
    assert not (service.data_dir / "tci.sqlite3").exists()
    assert not (service.data_dir / "redis.sock").exists()
    session_id = service.run("x = 42")["session_id"]
    assert service.stdout("print(x)", session_id) == "42\n"
    answer = service.post({"code": "x", "language": "python", "session_id": "ses_unknown"})
    assert answer.status_code == httpx.codes.NOT_FOUND
    listed = service.client.get("/tci/sessions").json()["data"]["sessions"]
    assert [(session["id"], session["execute_count"]) for session in listed] == [(session_id, 2)]

    # With a database of its own the service is one of many: its end is not that of the sessions.
    assert service.stop() == 0
    service = start_service(tmp_path / "data", **urls)
    assert service.stdout("print(x + 1)", session_id) == "43\n"
    assert service.tci("sessions", "list").stdout.startswith(session_id)
    service.tci("sessions", "end", session_id)
    assert service.client.get("/tci/sessions").json()["data"]["sessions"] == []


def test_interrupt_of_the_whole_process_group_does_not_reach_sandboxes(
    start_service: Start, new_postgresql: Callable[[], str], redis_url: str, tmp_path: Path
) -> None:
    """Ctrl-C in a terminal."""
    urls = {"database_url": new_postgresql(), "redis_url": redis_url}
    service = start_service(tmp_path / "data", **urls)  # migrates and prepares
    assert service.stop() == 0
    with service.log.open("ab") as log:
        command = [sys.executable, "-m", "tci", "serve"]
        leader = subprocess.Popen(
            command,
            env=service.environment,
            stdout=log,
            stderr=log,
            cwd=service.data_dir,
            start_new_session=True,
        )
    headers = {"Authorization": f"Bearer {service.key}"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=60) as client:
        assert processes.eventually(lambda: answers(client), 20)
        body = {"code": "x = 42", "language": "python"}
        session_id = client.post("/tci/execute", json=body).json()["data"]["session_id"]
    os.killpg(leader.pid, signal.SIGINT)
    assert leader.wait(timeout=30) == 0
    service = start_service(tmp_path / "data", **urls)
    assert service.stdout("print(x)", session_id) == "42\n"
    service.tci("sessions", "end", session_id)


def answers(client: httpx.Client) -> bool:
    """Whether the service answers."""
    try:
        return client.get("/health").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
