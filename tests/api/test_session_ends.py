"""Who may look at a session, interrupt what runs in it, and end it."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from tests.api.failures import assert_failure
from tests.api.sessions import UNKNOWN, client_of, data_of, ended, new_account, opened, run, shown, text
from tests.api.test_sessions import NONSENSE, host_runs
from tests.conftest import Service
from tests.sandbox.processes import eventually

Background = Callable[..., Future[Any]]


@pytest.fixture
def background() -> Iterator[Background]:
    """Run calls beside the test."""
    with ThreadPoolExecutor(4) as threads:
        yield threads.submit


@pytest.fixture(scope="module")
def owner(service: Service) -> Iterator[httpx.Client]:
    """A caller whose account is this module's."""
    with new_account(service) as client:
        yield client


@pytest.fixture(scope="module")
def admin(service: Service) -> Iterator[httpx.Client]:
    key = service.tci("keys", "create", "--account", "operator", "--admin").stdout.strip()
    with client_of(service, key) as client:
        yield client


@pytest.fixture(scope="module")
def live(owner: httpx.Client) -> dict[str, Any]:
    """A session of the owner's."""
    return opened(owner)


@pytest.fixture(scope="module")
def over(owner: httpx.Client) -> str:
    """One that has ended."""
    session_id = str(opened(owner)["id"])
    ended(owner, session_id)
    return session_id


@pytest.mark.parametrize("call", [("GET", ""), ("DELETE", ""), ("POST", "/interrupt")], ids=str)
def test_session_of_another_account_is_as_unknown_as_any(
    owner: httpx.Client, stranger: httpx.Client, live: dict[str, Any], over: str, call: tuple[str, str]
) -> None:
    method, path = call
    told = set()
    for session_id in (live["id"], over, UNKNOWN):
        answer = stranger.request(method, f"/tci/sessions/{session_id}{path}")
        assert_failure(answer, 404, "session_not_found", param="session_id")
        told.add(answer.text.replace(session_id, "ID"))
    assert len(told) == 1
    mine = assert_failure(
        owner.request(method, f"/tci/sessions/{over}{path}"), 404, "session_not_found", param="session_id"
    )
    assert "ended on request" in mine
    assert shown(owner, live["id"])["state"] == "live"


@pytest.mark.parametrize("session_id", [value for value in NONSENSE.values() if len(value) < 1000 and "/" not in value])
def test_nonsense_is_not_found(owner: httpx.Client, session_id: str) -> None:
    if not session_id:
        return
    quoted = httpx.QueryParams({"": session_id})
    path = str(quoted).removeprefix("=").replace("+", "%20")
    assert_failure(owner.get(f"/tci/sessions/{path}"), 404, "session_not_found", param="session_id")


def test_no_key_no_session(anonymous: httpx.Client, live: dict[str, Any]) -> None:
    for method, path in (
        ("POST", ""),
        ("GET", "?limit=x"),
        ("GET", f"/{live['id']}"),
        ("DELETE", f"/{live['id']}"),
        ("POST", f"/{live['id']}/interrupt"),
    ):
        answer = anonymous.request(method, f"/tci/sessions{path}", content=b"{")
        assert_failure(answer, 401, "invalid_api_key")


def test_admin_key_shows_interrupts_and_ends_any_session_but_runs_nothing_in_it(
    owner: httpx.Client, admin: httpx.Client
) -> None:
    session = opened(owner)
    assert shown(admin, session["id"]) == session
    data = data_of(admin.post(f"/tci/sessions/{session['id']}/interrupt"))
    assert data == {"session_id": session["id"], "interrupted": False}
    answer = admin.post("/tci/execute", json={"code": "", "session_id": session["id"]})
    assert_failure(answer, 404, "session_not_found", param="session_id")
    ended(admin, session["id"])
    answer = owner.get(f"/tci/sessions/{session['id']}")
    assert "ended on request" in assert_failure(answer, 404, "session_not_found", param="session_id")


LOOP = "print('begun', flush=True)\nimport time\nfor _ in range(600): time.sleep(0.1)"


def interrupted(client: httpx.Client, session_id: str) -> bool:
    data = data_of(client.post(f"/tci/sessions/{session_id}/interrupt"))
    assert data == {"session_id": session_id, "interrupted": ANY}
    return bool(data["interrupted"])


@pytest.mark.parametrize(
    ("code", "prints"),
    [
        (LOOP, "begun\n"),
        (f"try:\n    x = 1\n    exec({LOOP!r})\nexcept KeyboardInterrupt:\n    print('caught')", "begun\ncaught\n"),
        ("import time; time.sleep(60)", ""),
    ],
    ids=["loop", "caught", "asleep"],
)
def test_interrupted_run_says_so_and_its_session_goes_on(
    owner: httpx.Client, background: Background, live: dict[str, Any], code: str, prints: str
) -> None:
    session_id = live["id"]
    run(owner, "kept = 'kept'", session_id)
    assert not interrupted(owner, session_id)
    running = background(run, owner, code, session_id)
    assert eventually(lambda: interrupted(owner, session_id), 20)
    data = running.result()
    assert data["execution"]["verdict"] == "interrupted"
    *before, last = data["outputs"]
    assert prints.startswith("".join(output["data"] for output in before))
    assert last["type"] == "error"
    assert last["data"].startswith("KeyboardInterrupt: the execution was interrupted on request.")
    assert text(owner, "print(kept)", session_id) == "kept\n"
    assert not interrupted(owner, session_id)


def test_ended_under_a_run_the_run_says_so(owner: httpx.Client, background: Background) -> None:
    session, mark = opened(owner), f"1000.{uuid.uuid4().int % 10**12}"
    running = background(run, owner, f"import subprocess; subprocess.run(['sleep', '{mark}'])", session["id"])
    assert eventually(lambda: host_runs(mark), 20)
    waiting = background(owner.post, "/tci/execute", json={"code": "1", "session_id": session["id"]})
    ended(owner, session["id"])
    data = running.result()
    assert data["execution"]["verdict"] == "interrupted"
    assert data["outputs"] == [{"type": "error", "data": "SessionEnded: the session was ended while it ran the code."}]
    for answer in (waiting.result(), owner.delete(f"/tci/sessions/{session['id']}")):
        assert "ended on request" in assert_failure(answer, 404, "session_not_found", param="session_id")


def test_ended_session_is_gone_with_all_its_processes_and_its_place_is_free(tight_service: Service) -> None:
    client, mark = tight_service.client, f"1000.{uuid.uuid4().int % 10**12}"
    for session in data_of(client.get("/tci/sessions"))["sessions"]:
        ended(client, session["id"])
    session = opened(client)
    run(client, f"import subprocess; subprocess.Popen(['sleep', '{mark}'])", session["id"])
    assert host_runs(mark)
    told = assert_failure(client.post("/tci/sessions"), 429, "quota_exceeded")
    assert "End one with DELETE" in told
    ended(client, session["id"])
    assert not host_runs(mark)
    assert list((tight_service.data_dir / "run").iterdir()) == []
    ended(client, opened(client)["id"])
