"""The Docker engine is restarted: with live-restore sessions live, without it they end and say why."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import httpx
import pytest

from tci.sandbox.docker_image import image_tag
from tests.recovery.conftest import Start, bills, eventually, is_served, live_in_redis, post, row, stdout
from tests.recovery.engine import Engine, engine
from tests.stack import Stack


@pytest.fixture(scope="module")
def own_engine(prepared: Callable[[str], None]) -> Iterator[Engine]:
    """An engine that is nobody else's."""
    prepared("docker")
    with engine(image_tag()) as running:
        yield running


def start(start_stack: Start, own_engine: Engine) -> tuple[Stack, list[str]]:
    """Start two services on the engine, and a session by each."""
    built = start_stack(driver="docker", docker_host=own_engine.host)
    return built, [instance.run("import time; x = 42")["session_id"] for instance in built.instances]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_engine_restarted_with_live_restore_sessions_answer_with_their_variables(
    start_stack: Start, own_engine: Engine, number: signal.Signals
) -> None:
    built, ids = start(start_stack, own_engine)
    before = built.sandboxes()
    own_engine.stop(number)
    refused = post(built.instances[0], "print(1)")
    assert refused.status_code == 503, refused.text
    assert refused.json()["error"]["code"] == "unavailable"
    assert int(refused.headers["retry-after"]) > 0
    own_engine.start(live_restore=True)
    assert built.sandboxes() == before, "the same processes"
    for instance in built.instances:
        for session_id in ids:
            assert stdout(post(instance, "print(x)", session_id)) == "42\n"
        assert eventually(lambda: is_served(instance))  # noqa: B023 (called at once)
    assert all(row(built, session_id)["ended_at"] is None for session_id in ids)
    assert set(ids) <= live_in_redis(built)


@pytest.mark.timeout(400)
def test_engine_restarted_under_a_call_code_goes_on(
    start_stack: Start, own_engine: Engine, background: Callable[..., Future[Any]]
) -> None:
    built, [session_id, _] = start(start_stack, own_engine)
    first, second = built.instances
    running = background(post, first, "time.sleep(12); x += 1; print(x)", session_id)
    time.sleep(1)
    own_engine.stop()
    time.sleep(1)
    own_engine.start(live_restore=True)
    assert stdout(running.result()) == "43\n"
    assert stdout(post(second, "print(x)", session_id)) == "43\n"


@pytest.mark.timeout(400)
def test_engine_restarted_without_live_restore_sessions_end_with_a_reason(
    start_stack: Start, own_engine: Engine
) -> None:
    own_engine.stop()
    own_engine.start(live_restore=False)
    try:
        built, ids = start(start_stack, own_engine)
        own_engine.stop()
    finally:
        own_engine.start(live_restore=True)
    for instance in built.instances:
        for session_id in ids:
            answer = post(instance, "print(x)", session_id)
            assert answer.status_code == httpx.codes.NOT_FOUND, answer.text
            assert "ended:" in answer.text
    assert {row(built, session_id)["end_reason"] for session_id in ids} <= {
        "ended: its kernel died",
        "ended: its sandbox was lost",
    }
    assert bills(built) == dict.fromkeys(ids, False), "they had answered"
    assert eventually(lambda: not any(built.traces().values())), built.traces()
    assert eventually(lambda: live_in_redis(built) == set())
    assert eventually(lambda: is_served(built.instances[0]))
