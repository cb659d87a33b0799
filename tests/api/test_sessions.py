"""Sessions as their owner sees them, and as nobody else does."""

import datetime as dt
import re
import time
import uuid
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from tests.api.failures import assert_failure
from tests.conftest import Service

SESSION_ID = re.compile(r"ses_[1-9A-HJ-NP-Za-km-z]{21}")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
TTL_SECONDS = 8

NONSENSE = {
    "empty": "",
    "short": "x",
    "like one": "ses_" + "1" * 21,
    "documented": "ses_CM42NfvvzCab123",
    "upper": "SES_" + "1" * 21,
    "single quote": "it's",
    "double quote": 'say "x"',
    "backslash": "a\\b",
    "NUL": "a\0b",
    "new line": "a\nb",
    "escape": "\x1b[31m",
    "wide": "\N{SNOWMAN}\N{GRINNING FACE}",
    "SQL": "' OR 1=1 --",
    "path": "../../etc/passwd",
    "wildcard": "ses_%",
    "long": "ses_" + "x" * 1_000_000,
    "braces": "{0.__class__}",
}


def listed(client: httpx.Client) -> list[dict[str, Any]]:
    answer = client.get("/tci/sessions")
    assert answer.status_code == 200
    body = answer.json()
    sessions: list[dict[str, Any]] = body["data"]["sessions"]
    assert body == {"data": {"sessions": sessions}, "errors": None}
    return sessions


def moment(text: str) -> dt.datetime:
    assert MOMENT.fullmatch(text)
    return dt.datetime.fromisoformat(text)


def host_runs(argument: str) -> bool:
    """Whether a process of this host, in any sandbox, has the argument on its command line."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in file.read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def test_state_is_kept_between_calls(service: Service, session_id: str) -> None:
    assert service.stdout("x = 42\nimport math as m", session_id) == ""
    assert service.stdout("print(x, m.floor(2.5))", session_id) == "42 2\n"
    service.run("1 / 0", session_id)
    assert service.stdout("print(x)", session_id) == "42\n"


def test_list_is_newest_first_and_moves_with_executions(service: Service) -> None:
    headers = {"Authorization": f"Bearer {service.new_key('lister')}"}
    with httpx.Client(base_url=service.url, timeout=120, headers=headers) as client:
        assert listed(client) == []
        first, second = (client.post("/tci/execute", json={"code": "1"}).json()["data"] for _ in range(2))
        sessions = listed(client)
        assert [session["id"] for session in sessions] == [second["session_id"], first["session_id"]]
        for session in sessions:
            assert list(session)[:5] == ["id", "started_at", "last_execute_at", "expires_at", "execute_count"]
            assert session["execute_count"] == 1
            assert SESSION_ID.fullmatch(session["id"])
            started, last, expires = (moment(session[f"{name}_at"]) for name in ("started", "last_execute", "expires"))
            assert started <= last < expires
            assert expires - started == dt.timedelta(hours=1)
            assert abs(dt.datetime.now(dt.UTC) - started) < dt.timedelta(minutes=2)
        assert moment(sessions[0]["started_at"]) > moment(sessions[1]["started_at"])

        data = client.post("/tci/execute", json={"code": "1", "session_id": first["session_id"]}).json()["data"]
        assert data["execution"]["execute_count"] == 2
        before, after = sessions[1], listed(client)[1]
        assert after == {**before, "execute_count": 2, "last_execute_at": after["last_execute_at"]}
        assert moment(after["last_execute_at"]) > moment(before["last_execute_at"])
        assert data["execution"]["expires_at"] == after["expires_at"]


def test_failed_code_counts_as_an_execution(service: Service, session_id: str) -> None:
    before = service.run("", session_id)["execution"]["execute_count"]
    assert service.run("1 / 0", session_id)["execution"]["execute_count"] == before + 1


@pytest.mark.parametrize("session_id", NONSENSE.values(), ids=list(NONSENSE))
def test_nonsense_session_is_not_found(service: Service, session_id: str) -> None:
    assert_failure(service.post({"code": "", "session_id": session_id}), 404, "session_not_found", param="session_id")


def test_session_of_another_account_is_as_unknown_as_nonsense(
    service: Service, session_id: str, stranger: httpx.Client
) -> None:
    service.run("touched = False", session_id)
    unknown = "ses_" + "2" * 21
    bodies = []
    for asked in (session_id, unknown):
        answer = stranger.post("/tci/execute", json={"code": "touched = True", "session_id": asked})
        assert_failure(answer, 404, "session_not_found", param="session_id")
        bodies.append(answer.text.replace(asked, "ID"))
    assert bodies[0] == bodies[1]
    assert service.stdout("print(touched)", session_id) == "False\n"
    assert session_id not in [session["id"] for session in listed(stranger)]


def test_session_of_another_account_with_a_bad_file_is_as_unknown(
    service: Service, session_id: str, stranger: httpx.Client
) -> None:
    service.run("import os; os.makedirs('theirs', exist_ok=True)", session_id)
    files = [{"name": "theirs", "encoding": "string", "content": "x"}]
    answer = stranger.post("/tci/execute", json={"code": "", "session_id": session_id, "files": files})
    assert_failure(answer, 404, "session_not_found", param="session_id")


def test_ended_session_is_not_found_and_only_its_owner_hears_why(service: Service, stranger: httpx.Client) -> None:
    mark = f"1000.{uuid.uuid4().int % 10**12}"
    ended = service.run(f"import subprocess; subprocess.Popen(['sleep', '{mark}'])")["session_id"]
    assert host_runs(mark)
    assert ended in service.tci("sessions", "list").stdout
    service.tci("sessions", "end", ended)
    assert not host_runs(mark)
    assert ended not in [session["id"] for session in listed(service.client)]
    body = {"code": "", "session_id": ended}
    told = assert_failure(service.post(body), 404, "session_not_found", param="session_id")
    assert "ended on request" in told
    told = assert_failure(stranger.post("/tci/execute", json=body), 404, "session_not_found", param="session_id")
    assert "ended" not in told.replace(ended, "")


def test_dead_kernel_ends_its_session(service: Service, stranger: httpx.Client) -> None:
    data = service.run("import os, time; print('last words', flush=True); time.sleep(0.3); os._exit(3)")
    assert data["execution"]["verdict"] == "kernel_died"
    assert data["outputs"][0] == {"type": "stdout", "data": "last words\n"}
    assert data["outputs"][-1] == {"type": "error", "data": ANY}
    body = {"code": "", "session_id": data["session_id"]}
    told = assert_failure(service.post(body), 404, "session_not_found", param="session_id")
    assert "kernel died" in told
    told = assert_failure(stranger.post("/tci/execute", json=body), 404, "session_not_found", param="session_id")
    assert "died" not in told
    assert data["session_id"] not in [session["id"] for session in listed(service.client)]


@pytest.mark.parametrize("files", [[], [{"name": "f", "encoding": "string", "content": "x"}]], ids=["code", "files"])
def test_kernel_that_died_between_calls_is_told_soon(service: Service, files: list[dict[str, str]]) -> None:
    data = service.run("import os, threading; threading.Timer(0.3, os._exit, [1]).start()")
    time.sleep(0.8)
    began = time.monotonic()
    answer = service.post({"code": "1", "session_id": data["session_id"], "files": files})
    assert time.monotonic() - began < 5
    if answer.status_code == 200:
        assert answer.json()["data"]["execution"]["verdict"] == "kernel_died"
    else:
        assert_failure(answer, 404, "session_not_found", param="session_id")
    body = {"code": "1", "session_id": data["session_id"]}
    assert_failure(service.post(body), 404, "session_not_found", param="session_id")


def test_session_past_its_time_is_gone(start_service: Any) -> None:
    service: Service = start_service(session_ttl_seconds=TTL_SECONDS)
    mark = f"1000.{uuid.uuid4().int % 10**12}"
    data = service.run(f"import subprocess; subprocess.Popen(['sleep', '{mark}'])")
    session_id = data["session_id"]
    [session] = listed(service.client)
    assert moment(session["expires_at"]) - moment(session["started_at"]) == dt.timedelta(seconds=TTL_SECONDS)
    assert host_runs(mark)
    assert service.run("", session_id)["execution"]["expires_at"] == session["expires_at"]
    stranger = {"Authorization": f"Bearer {service.new_key('stranger')}"}

    # The moment decides, not the reaper's next pass.
    left = (moment(session["expires_at"]) - dt.datetime.now(dt.UTC)).total_seconds()
    time.sleep(max(0.0, left) + 0.05)
    assert listed(service.client) == []
    body = {"code": "", "session_id": session_id}
    told = assert_failure(service.post(body), 404, "session_not_found", param="session_id")
    assert "expired" in told
    told = assert_failure(service.post(body, headers=stranger), 404, "session_not_found", param="session_id")
    assert "expired" not in told

    time.sleep(2.5)  # a pass of the reaper, and the end of the sandbox
    assert not host_runs(mark)
    assert list((service.data_dir / "run").iterdir()) == []
    told = assert_failure(service.post(body), 404, "session_not_found", param="session_id")
    assert "expired" in told


def test_session_that_expires_under_a_run_is_told_as_an_output(start_service: Any) -> None:
    service: Service = start_service(session_ttl_seconds=TTL_SECONDS)
    answer = service.post({"code": "print('begun', flush=True)\nimport time; time.sleep(60)"})
    assert answer.headers["content-type"] == "application/json", answer.text
    data = answer.json()["data"]
    assert data["outputs"] == [{"type": "stdout", "data": "begun\n"}, {"type": "error", "data": ANY}]
    assert "expired" in data["outputs"][1]["data"]
    body = {"code": "", "session_id": data["session_id"]}
    assert "expired" in assert_failure(service.post(body), 404, "session_not_found", param="session_id")
