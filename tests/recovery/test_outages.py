"""Redis or PostgreSQL is away for a while: what can be answered is, the rest says so, and all comes back by itself."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx

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


def test_postgresql_away_running_code_ends_and_is_recorded_and_new_is_refused(
    start_stack: Start, background: Background
) -> None:
    built = start_stack()
    first, second = built.instances
    assert built.postgresql is not None
    session_id = first.run("import time; x = 1")["session_id"]
    running = background(post, first, "time.sleep(3); x += 1; print(x)", session_id)
    time.sleep(1)
    built.postgresql.kill()
    for instance in built.instances:
        assert_unavailable(post(instance, "print(1)"), "database")
        assert_unavailable(post(instance, "print(1)", session_id), "database")
        assert httpx.get(f"{instance.url}/ready", timeout=30).status_code == httpx.codes.SERVICE_UNAVAILABLE
    time.sleep(3)
    assert not running.done(), "its answer was given before it was recorded"
    built.postgresql.start()
    answer = running.result()
    assert stdout(answer) == "2\n"
    assert answer.json()["data"]["execution"]["execute_count"] == 2
    assert row(built, session_id)["execute_count"] == 2
    assert all(eventually(lambda: is_served(instance)) for instance in built.instances)  # noqa: B023 (called at once)
    assert stdout(post(second, "print(x)", session_id)) == "2\n"


def test_postgresql_away_for_long_answer_is_given_and_recorded_later(
    start_stack: Start, background: Background
) -> None:
    built = start_stack(heartbeat_seconds=60)
    first, second = built.instances
    assert built.postgresql is not None
    session_id = first.run("import time; x = 1")["session_id"]
    running = background(post, first, "time.sleep(2); x += 1; print(x)", session_id)
    time.sleep(1)
    built.postgresql.kill()
    assert stdout(running.result(timeout=HOLD_SECONDS + BACK_SECONDS)) == "2\n"
    built.postgresql.start()
    assert eventually(lambda: row(built, session_id)["execute_count"] == 2)
    assert eventually(lambda: is_served(second))
    assert stdout(post(second, "print(x)", session_id)) == "2\n"
