"""Several services on one engine are one: any serves any session, in order, and one of them reaps."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx
import pytest

from tci.kernel.launcher import PROXY_ADDRESS
from tests.api.failures import assert_failure
from tests.recovery.conftest import BACK_SECONDS, Start, bills, eventually, is_served, live_in_redis, post, row, stdout
from tests.stack import Kind

Background = Callable[..., Future[Any]]

WAITING = 16
"""Calls that may wait in one session, by default."""


def test_session_of_one_replica_is_served_by_the_other_in_order(start_stack: Start, background: Background) -> None:
    built = start_stack()
    first, second = built.instances
    session_id = first.run("import time; seen = []")["session_id"]
    calls = []
    for number in range(8):
        calls.append(
            background(post, built.instances[number % 2], f"seen.append({number}); time.sleep(0.5)", session_id)
        )
        time.sleep(0.2)  # the order of arrival, which is that of sending
    assert [call.result().status_code for call in calls] == [200] * 8
    assert stdout(post(second, "print(seen)", session_id)) == f"{list(range(8))}\n"
    assert row(built, session_id)["execute_count"] == 10


def test_seventeenth_waiting_call_is_refused_whichever_replica_it_asks(
    start_stack: Start, background: Background
) -> None:
    built = start_stack()
    first, second = built.instances
    session_id = first.run("import time; runs = 0")["session_id"]
    running = background(post, first, "time.sleep(6); runs += 1", session_id)
    time.sleep(1)
    waiting = [background(post, built.instances[number % 2], "runs += 1", session_id) for number in range(WAITING)]
    time.sleep(2)
    for instance in built.instances:
        message = assert_failure(post(instance, "runs += 100", session_id), 429, "rate_limited")
        assert str(WAITING) in message
    assert {call.result().status_code for call in (running, *waiting)} == {200}
    assert stdout(post(second, "print(runs)", session_id)) == f"{WAITING + 1}\n"


def test_expired_session_is_ended_once_by_one_replica(start_stack: Start) -> None:
    built = start_stack(session_ttl_seconds=4)
    ids = [instance.run("x = 1")["session_id"] for instance in built.instances for _ in range(2)]
    assert eventually(lambda: all(row(built, session_id)["ended_at"] for session_id in ids), 20)
    assert eventually(lambda: built.sandboxes() == {})
    assert eventually(lambda: live_in_redis(built) == set())
    logs = [ended(instance.log.read_text()) for instance in built.instances]
    assert sorted(id for log in logs for id in log) == sorted(ids), "each is ended once"  # noqa: A001 (a session's)
    assert [] in logs, "both replicas reaped"


def ended(log: str) -> list[str]:
    """Return the sessions that a service has ended, by its log."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line["session_id"] for line in lines if line["event"] == "Ended session"]


def test_reaper_killed_the_other_takes_over(start_stack: Start) -> None:
    """Whichever of the two it was: the session is opened by the one that goes on, the expiry comes after the death."""
    for victim in (0, 1):
        built = start_stack(session_ttl_seconds=6)
        survivor = built.instances[1 - victim]
        session_id = survivor.run("x = 1")["session_id"]
        built.instances[victim].kill()
        assert eventually(lambda: row(built, session_id)["ended_at"] is not None, 30)  # noqa: B023 (called at once)
        assert row(built, session_id)["end_reason"] == "expired"
        assert eventually(lambda: built.sandboxes() == {})  # noqa: B023 (called at once)


def test_replica_killed_while_it_opens_leaves_nothing_and_neighbours_are_untouched(
    start_stack: Start, background: Background
) -> None:
    neighbour = start_stack(kind=Kind.EMBEDDED, workers=(1,))
    theirs = neighbour.instances[0].run("theirs = 'untouched'")["session_id"]
    built = start_stack(launch_timeout_seconds=10)
    first, second = built.instances
    mine = first.run("mine = 'kept'")["session_id"]
    before = built.traces()
    opening = background(broken, first)
    assert eventually(lambda: len(built.sandboxes()) == 2), "a sandbox starts"
    first.kill()
    assert opening.result()
    assert eventually(lambda: built.traces() == before), (built.traces(), before)
    assert stdout(post(second, "print(mine)", mine)) == "kept\n"
    assert stdout(post(neighbour.instances[0], "print(theirs)", theirs)) == "untouched\n"
    assert all(is_waived for session_id, is_waived in bills(built).items() if session_id != mine)
    # Its place is given back when the launch and its clearing away would have been over.
    assert eventually(lambda: live_in_redis(built) == {mine}, 10 + 30 + BACK_SECONDS), live_in_redis(built)


def test_replica_killed_under_a_first_call_session_is_ended_and_costs_nothing(
    start_stack: Start, background: Background
) -> None:
    """Its caller never heard its id."""
    built = start_stack()
    first, _ = built.instances
    opening = background(broken, first, "import time; time.sleep(60)")
    assert eventually(lambda: len(bills(built)) == 1), "it is recorded"
    time.sleep(0.5)
    first.kill()
    assert opening.result()
    [session_id] = bills(built)
    assert eventually(lambda: row(built, session_id)["ended_at"] is not None)
    assert row(built, session_id)["end_reason"] == "ended: its sandbox was lost"
    assert eventually(lambda: bills(built) == {session_id: True})
    assert eventually(lambda: not any(built.traces().values())), built.traces()
    with built.redis_client() as client:
        counted = [client.hgetall(key) for key in client.scan_iter(match=f"tci:{built.deployment}:account:*:20*")]
    assert {count for each in counted for count in each.values()} <= {"0"}


def broken(instance: Any, code: str = "print(1)") -> bool:
    """Call, and return whether the connection broke."""
    try:
        post(instance, code)
    except httpx.TransportError:
        return True
    return False


def test_gate_of_a_killed_replica_is_opened_by_the_other(start_stack: Start) -> None:
    built = start_stack()
    first, second = built.instances
    session_id = first.run(f"{ASK_PROXY}\nprint(ask())")["session_id"]
    assert eventually(lambda: asked(second, session_id) == "403"), "the proxy refuses by its policy"
    first.kill()
    assert eventually(lambda: asked(second, session_id) == "403"), asked(second, session_id)


ASK_PROXY = f"""
import http.client
def ask():
    connection = http.client.HTTPConnection(*{PROXY_ADDRESS!r}, timeout=20)
    try:
        connection.request('GET', 'http://blocked.example/')
        return connection.getresponse().status
    except OSError as error:
        return type(error).__name__
"""


def asked(instance: Any, session_id: str) -> str:
    """Return what code of a session hears from its way out."""
    return stdout(post(instance, "print(ask())", session_id)).strip()


def test_worker_killed_its_service_starts_another_and_sessions_live(start_stack: Start) -> None:
    built = start_stack(workers=(2,))
    [service] = built.instances
    ids = [service.run(f"x = {number}")["session_id"] for number in range(4)]
    before = service.workers()
    assert len(before) == 2
    for victim in before:
        os.kill(victim, signal.SIGKILL)
        assert eventually(lambda: len(service.workers() - before) > 0)
        assert eventually(lambda: len(service.workers()) == 2)
        for number, session_id in enumerate(ids):
            assert eventually(lambda: shows(service, session_id, f"{number}\n"))  # noqa: B023 (called at once)
    assert eventually(lambda: is_served(service))
    service.terminate()


def shows(instance: Any, session_id: str, text: str) -> bool:
    """Whether a session has its variable; a connection that a killed worker had taken may break."""
    try:
        return stdout(post(instance, "print(x)", session_id)) == text
    except httpx.TransportError:
        return False


def test_session_is_ended_by_one_replica_under_a_call_of_the_other(start_stack: Start, background: Background) -> None:
    built = start_stack(session_ttl_seconds=5)
    session_id = built.instances[0].run("import time; x = 1")["session_id"]
    running = background(post, built.instances[1], "time.sleep(60)", session_id)
    answer = running.result()
    assert answer.status_code == httpx.codes.OK, answer.text
    data = answer.json()["data"]
    assert data["execution"]["verdict"] in {"interrupted", "kernel_died"}
    assert re.search("expired|ended", data["outputs"][-1]["data"]), data
    assert row(built, session_id)["end_reason"] == "expired"


def test_session_is_interrupted_shown_and_ended_through_the_other_replica(
    start_stack: Start, background: Background
) -> None:
    built = start_stack()
    first, second = built.instances
    answer = first.client.post("/tci/sessions", json={"metadata": {"job": "a"}})
    session = answer.json()["data"]["session"]
    path = f"/tci/sessions/{session['id']}"
    assert second.client.get(path).json()["data"] == {"session": session}
    assert second.client.get("/tci/sessions?metadata=job:a").json()["data"]["sessions"] == [session]
    for asked, runs in ((second, first), (first, second)):
        running = background(post, runs, "import time; kept = 1; time.sleep(60)", session["id"])
        assert eventually(lambda: asked.client.post(f"{path}/interrupt").json()["data"]["interrupted"])  # noqa: B023
        data = running.result().json()["data"]
        assert data["execution"]["verdict"] == "interrupted"
        assert [output["type"] for output in data["outputs"]] == ["error"]
        assert stdout(post(asked, "print(kept)", session["id"])) == "1\n"
        assert asked.client.post(f"{path}/interrupt").json()["data"]["interrupted"] is False
    running = background(post, first, "time.sleep(60)", session["id"])
    assert eventually(lambda: first.client.get(path).json()["data"]["session"]["execute_count"] == 5)
    assert second.client.delete(path).json()["data"] == {"session_id": session["id"], "ended": True}
    assert running.result().json()["data"]["execution"]["verdict"] == "interrupted"
    assert eventually(lambda: built.sandboxes() == {})
    assert_failure(first.client.get(path), 404, "session_not_found", param="session_id")
    assert bills(built) == {session["id"]: False}


def test_session_opened_ahead_outlives_the_replica_that_opened_it(start_stack: Start) -> None:
    """Its caller has heard its id, though nothing ran in it yet."""
    built = start_stack()
    first, second = built.instances
    session_id = first.client.post("/tci/sessions").json()["data"]["session"]["id"]
    assert eventually(lambda: row(built, session_id)["answered_at"] is not None)
    first.kill()
    assert stdout(post(second, "print(6 * 7)", session_id)) == "42\n"
    time.sleep(2 * 2)  # two passes of what looks for sessions that nobody keeps
    assert stdout(post(second, "print(6 * 7)", session_id)) == "42\n"
    assert bills(built) == {session_id: False}


def test_client_that_leaves_a_call_behind_another_replicas_interrupts_none(
    start_stack: Start, background: Background
) -> None:
    """Emptied, Redis has lost the tickets: both calls are in the kernel's own queue."""
    built = start_stack()
    first, second = built.instances
    session_id = first.run("import time; runs = []")["session_id"]
    running = background(post, first, "time.sleep(6); runs.append('first')", session_id)
    time.sleep(1)
    with built.redis_client() as client:
        client.flushall()
    body = {"code": "time.sleep(60); runs.append('second')", "language": "python", "session_id": session_id}
    with pytest.raises(httpx.ReadTimeout):
        second.post(body, timeout=2)
    assert running.result().json()["data"]["execution"]["verdict"] == "ok"
    assert stdout(post(first, "print(runs)", session_id)) == "['first']\n"
