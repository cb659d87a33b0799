"""Stacks to break, on the production driver where it works."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from tci.storage.tables import ledger, sessions
from tests.api.failures import assert_failure
from tests.conftest import REQUIRE_ALL, docker_answers
from tests.sandbox import processes
from tests.stack import Instance, Stack, stack

QUICK = {"preload": "json", "reap_interval_seconds": 0.2, "reconcile_interval_seconds": 2}
"""Settings of every stack here: sandboxes start sooner, and what is looked for is found sooner."""

BACK_SECONDS = 15.0
"""How long a part may take to be well again by itself; one or two on an idle machine."""

Start = Callable[..., Stack]


@pytest.fixture(scope="session")
def best_driver(prepared: Callable[[str], None]) -> str:
    """The production driver where it works."""
    choice = "docker" if docker_answers() or REQUIRE_ALL else "bubblewrap"
    prepared(choice)
    return choice


@pytest.fixture
def start_stack(best_driver: str) -> Iterator[Start]:
    """Start stacks of a test's own."""
    with contextlib.ExitStack() as cleanup:
        yield lambda **options: cleanup.enter_context(stack(options.pop("driver", best_driver), **{**QUICK, **options}))


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Any]]]:
    """Run calls beside the test."""
    with ThreadPoolExecutor(40) as threads:
        yield threads.submit


def post(instance: Instance, code: str, session_id: str | None = None) -> httpx.Response:
    """Send code on a connection of its own; a shared one can't be used by two threads in order."""
    body = {"code": code, "language": "python", "session_id": session_id}
    headers = {"Authorization": f"Bearer {instance.key}"}
    return httpx.post(f"{instance.url}/tci/execute", json=body, headers=headers, timeout=90)


def stdout(answer: httpx.Response) -> str:
    """Return what the code printed."""
    assert answer.status_code == httpx.codes.OK, answer.text
    return "".join(output["data"] for output in answer.json()["data"]["outputs"])


def assert_unavailable(answer: httpx.Response, part: str) -> None:
    """Assert that an answer says which part is away, and when to come back."""
    message = assert_failure(answer, 503, "unavailable")
    assert part in message
    assert "Nothing was run" in message
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def is_served(instance: Instance) -> bool:
    """Whether a new session opens and answers."""
    answer = post(instance, "print(1)")
    assert answer.status_code in {200, 503}, answer.text
    return answer.status_code == httpx.codes.OK and stdout(answer) == "1\n"


def eventually(condition: Callable[[], bool], seconds: float = BACK_SECONDS) -> bool:
    """Return whether a condition comes true in time."""
    return processes.eventually(condition, seconds)


def row(built: Stack, session_id: str) -> dict[str, Any]:
    """Return a session as it is recorded."""
    [found] = built.rows(select(sessions).where(sessions.c.id == session_id))
    return found


def bills(built: Stack) -> dict[str, bool]:
    """Return the sessions of the ledger, and whether they are waived."""
    return {bill["session_id"]: bill["waived_at"] is not None for bill in built.rows(select(ledger))}


def live_in_redis(built: Stack) -> set[str]:
    """Return the sessions that Redis takes for live."""
    with built.redis_client() as client:
        return set(client.zrange(f"tci:{built.deployment}:sessions", 0, -1))
