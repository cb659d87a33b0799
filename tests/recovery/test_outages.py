"""Redis or PostgreSQL is away for a while: what can be answered is, the rest says so, and all comes back by itself."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx

from tci.storage.account_store import BELIEVED_SECONDS
from tests.recovery.conftest import (
    BACK_SECONDS,
    Start,
    assert_unavailable,
    bills,
    eventually,
    is_served,
    live_in_redis,
    post,
    row,
    stdout,
)
from tests.stack import Stack

Background = Callable[..., Future[Any]]

HOLD_SECONDS = 10.0
"""How long an answer waits for being recorded; see the service."""


def test_redis_away_open_sessions_answer_and_new_ones_are_refused(start_stack: Start) -> None:
    built = start_stack()
    first, second = built.instances
    assert built.redis is not None
    session_id = first.run("x = 1")["session_id"]
    built.redis.kill()
    for instance in (first, second, first):
        assert stdout(post(instance, "x += 1; print(x)", session_id))
        assert_unavailable(post(instance, "print(1)"), "Redis")
    assert stdout(post(second, "print(x)", session_id)) == "4\n"
    assert len(built.sandboxes()) == 1, "a refused session left a sandbox"
    listed = second.client.get("/tci/sessions")
    assert [session["id"] for session in listed.json()["data"]["sessions"]] == [session_id]
    assert httpx.get(f"{first.url}/ready", timeout=30).status_code == httpx.codes.OK

    built.redis.start()
    assert all(eventually(lambda: is_served(instance)) for instance in built.instances)  # noqa: B023 (called at once)
    assert session_id in live_in_redis(built)
    assert stdout(post(first, "print(x)", session_id)) == "4\n"
    assert row(built, session_id)["execute_count"] == 6


def test_redis_away_at_an_expiry_session_ends_once_it_is_back(start_stack: Start) -> None:
    built = start_stack(session_ttl_seconds=5)
    [first, _] = built.instances
    assert built.redis is not None
    session_id = first.run("x = 1")["session_id"]
    built.redis.kill()
    time.sleep(5)
    answer = post(first, "print(x)", session_id)
    assert answer.status_code == httpx.codes.NOT_FOUND, answer.text
    assert "expired" in answer.text
    built.redis.start()
    assert eventually(lambda: built.sandboxes() == {})
    assert row(built, session_id)["end_reason"] == "expired"
    assert eventually(lambda: live_in_redis(built) == set())


def test_flushed_redis_is_refilled_and_nothing_is_billed_twice(start_stack: Start) -> None:
    built = start_stack(max_sandboxes=2)
    first, second = built.instances
    ids = {instance.run("x = 7")["session_id"] for instance in built.instances}
    counted = counters(built)
    with built.redis_client() as client:
        client.flushall()
    assert eventually(lambda: live_in_redis(built) == ids)
    assert eventually(lambda: counters(built) == counted), counters(built)
    assert bills(built) == dict.fromkeys(ids, False)
    assert {stdout(post(second, "print(x)", session_id)) for session_id in ids} == {"7\n"}
    refused = post(first, "print(1)")
    assert refused.json()["error"]["code"] == "no_capacity", "places that were forgotten would be given again"


def counters(built: Any) -> dict[str, Any]:
    """Return what Redis has counted."""
    with built.redis_client() as client:
        keys = [key for key in client.scan_iter(match=f"tci:{built.deployment}:*:20*") if client.type(key) == "hash"]
        return {key: client.hgetall(key) for key in keys}


FIRST_RUN = "import time; time.sleep(3); x = 2; print(x)"
"""A session's first run is counted when it has ended, later ones while they run."""


def begin_first_run(built: Stack, background: Background) -> tuple[Future[Any], str]:
    """Run code in a new session of the first service; return its answer to come, and the session."""
    running = background(post, built.instances[0], FIRST_RUN)
    assert eventually(lambda: bool(bills(built)))
    [session_id] = bills(built)
    return running, session_id


def test_postgresql_killed_running_code_ends_and_is_answered_once_it_is_recorded(
    start_stack: Start, background: Background
) -> None:
    built = start_stack()
    assert built.postgresql is not None
    running, session_id = begin_first_run(built, background)
    built.postgresql.kill()
    time.sleep(5)
    assert not running.done(), "its answer was given before it was recorded"
    built.postgresql.start()
    answer = running.result()
    assert stdout(answer) == "2\n"
    assert answer.json()["data"]["execution"]["execute_count"] == 1
    assert row(built, session_id)["execute_count"] == 1
    assert all(eventually(lambda: is_served(instance)) for instance in built.instances)  # noqa: B023 (called at once)
    assert stdout(post(built.instances[1], "print(x)", session_id)) == "2\n"


def test_postgresql_away_for_long_answer_is_given_and_recorded_later_and_new_is_refused(
    start_stack: Start, background: Background
) -> None:
    built = start_stack(heartbeat_seconds=60)
    assert built.postgresql is not None
    running, session_id = begin_first_run(built, background)
    built.postgresql.kill()
    assert stdout(running.result(timeout=HOLD_SECONDS + 2 * BACK_SECONDS)) == "2\n"
    time.sleep(BELIEVED_SECONDS)  # so long the first service goes on with a key that it has seen
    for instance in built.instances:
        assert_unavailable(post(instance, "print(1)"), "database")
        assert_unavailable(post(instance, "print(1)", session_id), "database")
        assert httpx.get(f"{instance.url}/ready", timeout=30).status_code == httpx.codes.SERVICE_UNAVAILABLE
    built.postgresql.start()
    assert eventually(lambda: row(built, session_id)["execute_count"] == 1)
    assert all(eventually(lambda: is_served(instance)) for instance in built.instances)  # noqa: B023 (called at once)
    assert stdout(post(built.instances[1], "print(x)", session_id)) == "2\n"


def test_postgresql_away_for_a_moment_session_that_a_service_knows_is_answered_and_counted_later(
    start_stack: Start,
) -> None:
    built = start_stack(heartbeat_seconds=60)
    first = built.instances[0]
    assert built.postgresql is not None
    session_id = first.run("x = 2")["session_id"]
    stdout(post(first, "x += 1", session_id))  # its key is believed from now on
    built.postgresql.kill()
    answer = post(first, "x += 1; print(x)", session_id)
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # to kill it took longer than a key is believed
        assert_unavailable(answer, "database")
    else:
        assert stdout(answer) == "4\n"
    built.postgresql.start()
    ran = 3 if answer.status_code == httpx.codes.OK else 2
    assert eventually(lambda: row(built, session_id)["execute_count"] == ran)
