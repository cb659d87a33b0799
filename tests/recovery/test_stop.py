"""A service is told to stop: what runs ends or is interrupted in time, nothing begins, sessions go by the setting."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import select

from tci.storage.tables import sessions
from tests.recovery.balancer import CHECK_SECONDS, balancing
from tests.recovery.conftest import Start, bills, eventually, post, row, stdout
from tests.stack import END_SECONDS, Instance, Kind, Stack

Background = Callable[..., Future[Any]]


def listens(instance: Instance) -> bool:
    """Whether connections are taken."""
    try:
        httpx.get(f"{instance.url}/health", timeout=1)
    except httpx.TransportError:
        return False
    return True


@pytest.mark.parametrize("workers", [1, 2])
def test_stop_lets_short_code_finish_and_takes_no_new_work(
    start_stack: Start, background: Background, workers: int
) -> None:
    built = start_stack(workers=(workers, 1))
    first, second = built.instances
    session_id = first.run("import time; x = 1")["session_id"]
    running = background(post, first, "time.sleep(7); x += 1; print(x)", session_id)
    time.sleep(1)
    first.process.send_signal(signal.SIGTERM)
    assert eventually(lambda: not listens(first), 4), "it goes on taking work"
    assert not running.done()
    assert stdout(running.result()) == "2\n"
    assert first.process.wait(END_SECONDS) == 0, first.said()
    assert row(built, session_id)["execute_count"] == 2
    assert stdout(post(second, "print(x)", session_id)) == "2\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_stop_interrupts_long_code_within_the_bound(start_stack: Start, background: Background, workers: int) -> None:
    built = start_stack(workers=(workers, 1), stop_seconds=2)
    first, second = built.instances
    session_id = first.run("import time; x = 1")["session_id"]
    running = background(post, first, "x += 1; time.sleep(100); x += 100", session_id)
    time.sleep(1)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(END_SECONDS) == 0, first.said()
    answer = running.result()
    assert answer.status_code == httpx.codes.OK, "a client would send it again, and it would run twice"
    assert answer.json()["data"]["execution"]["verdict"] == "interrupted", answer.text
    assert [output["type"] for output in answer.json()["data"]["outputs"]] == ["error"], answer.text
    assert row(built, session_id)["execute_count"] == 2
    assert stdout(post(second, "print(x)", session_id)) == "2\n", "interrupted, and its session lives"
    assert "Traceback" not in first.log.read_text(), first.said()


def test_stop_under_a_first_call_costs_nothing(start_stack: Start, background: Background) -> None:
    """Its caller never heard the session's id."""
    built = start_stack(stop_seconds=1)
    first, _ = built.instances
    running = background(post, first, "import time; time.sleep(100)")
    assert eventually(lambda: len(bills(built)) == 1)
    first.terminate()
    assert running.result().status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert eventually(lambda: list(bills(built).values()) == [True]), built.rows(select(sessions))
    assert eventually(lambda: built.sandboxes() == {})


def run_and_stop(built: Stack) -> str:
    """Open a session, stop every service, and return the session's id."""
    session_id = built.instances[0].run("x = 42")["session_id"]
    for instance in built.instances:
        instance.terminate()
    return str(session_id)


def assert_kept(built: Stack, session_id: str) -> None:
    """Assert that a session answers after the next start."""
    assert len(built.sandboxes()) == 1
    for instance in built.instances:
        instance.start()
        assert stdout(post(instance, "print(x)", session_id)) == "42\n"


def assert_over(built: Stack, session_id: str) -> None:
    """Assert that the stop has ended a session and left nothing of it."""
    assert not any(built.traces().values()), built.traces()
    assert row(built, session_id)["end_reason"] == "ended with the service"
    assert bills(built) == {session_id: False}, "it had answered"


def test_sessions_outlive_a_stop_with_a_server_database(start_stack: Start) -> None:
    built = start_stack()
    assert_kept(built, run_and_stop(built))


def test_sessions_end_with_the_service_where_that_is_set(start_stack: Start) -> None:
    built = start_stack(workers=(2,), keep_sessions=False)
    assert_over(built, run_and_stop(built))


def test_sessions_end_with_an_embedded_database(start_stack: Start) -> None:
    built = start_stack(kind=Kind.EMBEDDED, workers=(2,))
    assert_over(built, run_and_stop(built))


def test_sessions_outlive_a_stop_with_an_embedded_database_where_that_is_set(start_stack: Start) -> None:
    built = start_stack(kind=Kind.EMBEDDED, workers=(2,), keep_sessions=True)
    assert_kept(built, run_and_stop(built))


def test_rolling_restart_behind_a_balancer_fails_no_request(start_stack: Start, background: Background) -> None:
    built = start_stack(drain_seconds=4 * CHECK_SECONDS)
    ports = [urlsplit(instance.url).port or 0 for instance in built.instances]
    over = threading.Event()
    with balancing(ports) as balancer:
        calls = [background(client, balancer.url, built.instances[0].key, over) for _ in range(6)]
        for instance in built.instances:
            time.sleep(2)
            instance.terminate()
            instance.start()
            assert eventually(lambda: len(balancer.ready) == len(ports))
        time.sleep(2)
        over.set()
        seen = sum((call.result() for call in calls), Counter[str]())
        assert seen.keys() == {"answered"}, seen
        assert seen.total() > 20, "there was no load"
        assert all(balancer.sent[port] > 5 for port in ports), balancer.sent


def client(url: str, key: str, over: threading.Event) -> Counter[str]:
    """Call one session until told to stop; return how each call ended."""
    seen: Counter[str] = Counter()
    session_id, count = None, 0
    headers = {"Authorization": f"Bearer {key}", "connection": "close"}
    while not over.is_set():
        code = "import time; n = 1; print(n)" if session_id is None else "n += 1; time.sleep(0.3); print(n)"
        body = {"code": code, "language": "python", "session_id": session_id}
        try:
            answer = httpx.post(f"{url}/tci/execute", json=body, headers=headers, timeout=60)
        except httpx.TransportError as error:
            seen[repr(error)] += 1
            continue
        if answer.status_code != httpx.codes.OK:
            seen[answer.text] += 1
            continue
        data = answer.json()["data"]
        session_id, count = data["session_id"], count + 1
        is_right = data["outputs"] == [{"type": "stdout", "data": f"{count}\n"}]
        seen["answered" if is_right else answer.text] += 1
    return seen
