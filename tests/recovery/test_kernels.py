"""A kernel is killed from outside, between two calls or under one: its session ends and says why."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import httpx

from tests.recovery.conftest import Start, bills, eventually, post, row, stdout
from tests.stack import Stack


def kill_kernel(built: Stack, session_id: str) -> None:
    """Kill the kernel of a session."""
    os.kill(built.kernel(row(built, session_id)["sandbox_id"]), signal.SIGKILL)


def assert_ended(built: Stack, session_id: str) -> None:
    """Assert that a session is over at every replica, says why, is billed, and has left nothing."""
    for instance in built.instances:
        answer = post(instance, "print(x)", session_id)
        assert answer.status_code == httpx.codes.NOT_FOUND, answer.text
        assert "its kernel died" in answer.text
    assert row(built, session_id)["end_reason"] == "ended: its kernel died"
    assert bills(built)[session_id] is False, "it had answered, so it is paid"
    left = row(built, session_id)["sandbox_id"]
    assert eventually(lambda: not any(left in found for found in built.traces().values())), built.traces()


def test_kernel_killed_between_calls_next_call_is_told_why(start_stack: Start) -> None:
    built = start_stack()
    first, second = built.instances
    killed, other = (first.run("x = 5")["session_id"] for _ in range(2))
    kill_kernel(built, killed)
    assert_ended(built, killed)
    assert stdout(post(second, "print(x)", other)) == "5\n"


def test_kernel_killed_under_a_call_verdict_says_so(start_stack: Start, background: Callable[..., Future[Any]]) -> None:
    built = start_stack()
    first, second = built.instances
    killed, other = (first.run("import time; x = 5")["session_id"] for _ in range(2))
    # Through the replica that did not open it: it has no child whose death it would be told.
    running = background(post, second, "print('begun', flush=True); time.sleep(60)", killed)
    time.sleep(1)
    kill_kernel(built, killed)
    answer = running.result()
    assert answer.status_code == httpx.codes.OK, answer.text
    data = answer.json()["data"]
    assert data["execution"]["verdict"] == "kernel_died"
    assert [output["type"] for output in data["outputs"]] == ["stdout", "error"]
    assert_ended(built, killed)
    assert stdout(post(second, "print(x)", other)) == "5\n"
