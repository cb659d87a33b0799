"""A service that stops says so before it does, finishes what runs, and interrupts what runs too long."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Service

Start = Callable[..., Service]


def run_beside(service: Service, code: str) -> tuple[threading.Thread, list[Any]]:
    """Run code while something else happens; the list then holds what came of it."""
    came: list[Any] = []

    def run() -> None:
        try:
            came.append(httpx.post(f"{service.url}/tci/execute", json={"code": code}, headers=headers, timeout=60))
        except httpx.HTTPError as error:
            came.append(error)

    headers = {"Authorization": f"Bearer {service.key}"}
    thread = threading.Thread(target=run)
    thread.start()
    return thread, came


def wait_for_sessions(service: Service, count: int) -> None:
    """Return once so many sessions have opened."""
    give_up = time.monotonic() + 60
    while len(service.client.get("/tci/sessions").json()["data"]["sessions"]) < count:
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_draining_service_serves_and_says_that_it_is_not_ready(start_service: Start) -> None:
    service = start_service(drain_seconds=3)
    assert service.client.get("/ready").json() == {"status": "ready", "database": "ok", "redis": "ok", "engine": "ok"}
    service.process.send_signal(signal.SIGTERM)
    give_up = time.monotonic() + 10
    while (answer := service.client.get("/ready")).status_code == httpx.codes.OK:
        assert time.monotonic() < give_up
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert answer.json()["error"]["code"] == "unavailable"
    assert service.stdout("print('served')") == "served\n"
    service.client.close()
    assert service.process.wait(timeout=60) == 0


def test_short_run_is_finished_and_long_one_interrupted_at_a_stop(start_service: Start) -> None:
    service = start_service(stop_seconds=5, heartbeat_seconds=1)
    short, came_of_short = run_beside(service, "import time; print('begun', flush=True); time.sleep(4); print('over')")
    long, came_of_long = run_beside(service, "import time; time.sleep(600)")
    wait_for_sessions(service, 2)
    time.sleep(1.5)  # both run, and the long one's answer has begun
    assert service.stop() == 0
    short.join()
    long.join()
    assert came_of_short[0].json()["data"]["outputs"] == [{"type": "stdout", "data": "begun\nover\n"}]
    # Its status was sent before: what it gets is a whole answer all the same, and one that tells of the stop.
    late = came_of_long[0].json()
    assert late["data"]["outputs"][-1]["type"] == "error"
    assert "stopping" in late["data"]["outputs"][-1]["data"]


def test_long_run_whose_answer_has_not_begun_is_503_at_a_stop(start_service: Start) -> None:
    service = start_service(stop_seconds=1)
    long, came = run_beside(service, "import time; time.sleep(600)")
    wait_for_sessions(service, 1)
    time.sleep(1)
    assert service.stop() == 0
    long.join()
    assert came[0].status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert came[0].json()["error"]["code"] == "unavailable"
    assert int(came[0].headers["retry-after"]) > 0


BROKEN = """
from tci.sessions.reaper import Reaper

async def run_reap(self):
    raise RuntimeError("broken for a test")

Reaper.run_reap = run_reap
"""


def test_service_whose_loop_has_ended_is_not_ready_and_goes_on_answering(
    start_service: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    service = start_service()
    answer = service.client.get("/ready")
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert answer.json()["error"]["code"] == "loop_stopped"
    assert "(reap)" in answer.json()["message"]
    assert int(answer.headers["retry-after"]) > 0
    assert service.client.get("/health").status_code == httpx.codes.OK
    assert service.stdout("print('served')") == "served\n"
    [line] = [line for line in service.log.read_text().splitlines() if '"level": "critical"' in line]
    assert '"loop": "reap"' in line
    assert "broken for a test" in line
