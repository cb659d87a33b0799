"""Both prefixes, any number of slashes, and one answer for whatever is not offered."""

import httpx
import pytest

from tests.api.failures import assert_failure
from tests.api.raw import bearer, connection, request
from tests.conftest import Service

EXECUTE = [
    "/tci/execute",
    "/v1/tci/execute",
    "//tci/execute",
    "/v1//tci/execute",
    "//v1/tci/execute",
    "//v1//tci//execute",
    "////tci////execute",
]
SESSIONS = [path.replace("execute", "sessions") for path in EXECUTE]
OFFERED = {
    "/tci/execute": "POST",
    "/v1/tci/execute": "POST",
    "/tci/sessions": "GET, POST",
    "/v1/tci/sessions": "GET, POST",
    "/tci/sessions/ses_x": "DELETE, GET",
    "/tci/sessions/ses_x/interrupt": "POST",
    "/tci/usage": "GET",
    "/v1/tci/usage": "GET",
    "/tci/overview": "GET",
    "/v1/tci/overview": "GET",
    "/metrics": "GET",
}

OPEN = {"/health", "/ready", "/docs", "/redoc", "/openapi.json"}
"""What answers without a key."""


@pytest.mark.parametrize("path", EXECUTE)
def test_execute_path_with_any_slashes_runs_code(service: Service, session_id: str, path: str) -> None:
    body = {"code": "print(6 * 7)", "session_id": session_id}
    answer = service.client.post(service.url + path, json=body, follow_redirects=False)
    assert answer.request.url.raw_path == path.encode()
    assert answer.status_code == 200
    assert answer.json()["data"]["outputs"] == [{"type": "stdout", "data": "42\n"}]


@pytest.mark.parametrize("path", SESSIONS)
def test_sessions_path_with_any_slashes_lists(service: Service, session_id: str, path: str) -> None:
    answer = service.client.get(service.url + path, follow_redirects=False)
    assert answer.status_code == 200
    assert session_id in [session["id"] for session in answer.json()["data"]["sessions"]]


@pytest.mark.parametrize("path", ["/tci/execute?x=1", "/tci//execute?next=//elsewhere"])
def test_query_is_ignored(service: Service, session_id: str, path: str) -> None:
    answer = service.client.post(service.url + path, json={"code": "", "session_id": session_id})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["http://tci/tci/execute", "//tci/execute", "/%74ci/execute"])
def test_other_spelling_of_target_runs_code(service: Service, session_id: str, path: str) -> None:
    body = {"code": "print(1)", "session_id": session_id}
    with connection(service) as opened:
        opened.send(request("POST", path, body, authorization=bearer(service)))
        assert opened.read().json()["data"]["outputs"] == [{"type": "stdout", "data": "1\n"}]


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_sessions_with_any_content_type_lists(service: Service, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert service.client.get("/tci/sessions", headers=headers).status_code == 200


def test_sessions_with_a_body_lists(service: Service) -> None:
    assert service.client.request("GET", "/tci/sessions", content=b"{nonsense").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/tci",
        "/tci/",
        "/v1",
        "/v1/tci",
        "/v2/tci/execute",
        "/tci/execute/",
        "/tci/sessions/",
        "/tci/sessions/ses_x/nothing",
        "/v1/v1/tci/execute",
        "/tci/../etc/passwd",
        "/favicon.ico",
        "/%00",
        "/%ff%fe",
        "/x" * 2000,
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_path_is_not_found(service: Service, method: str, path: str) -> None:
    with connection(service) as opened:
        opened.send(request(method, path, b"{}", authorization=bearer(service)))
        assert_failure(opened.read(), 404, "not_found")


@pytest.mark.parametrize("path", OFFERED)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_wrong_method_is_not_allowed(anonymous: httpx.Client, method: str, path: str) -> None:
    if method in OFFERED[path].split(", "):
        return
    answer = anonymous.request(method, path)
    assert_failure(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == OFFERED[path]


@pytest.mark.parametrize("path", ["/tci/execute", "/tci/sessions", "/nowhere"])
def test_head_answers_without_a_body(service: Service, path: str) -> None:
    with connection(service) as opened:
        opened.send(request("HEAD", path) + request("GET", "/nowhere"))
        assert opened.read(has_body=False).status_code in (404, 405)
        # What follows on the connection is the next answer: no body came with the first.
        assert_failure(opened.read(), 404, "not_found")


def test_health_without_a_key_answers(anonymous: httpx.Client) -> None:
    answer = anonymous.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_head_of_health_answers_as_get_does_without_a_body(service: Service, path: str) -> None:
    with connection(service) as opened:
        opened.send(request("HEAD", path) + request("GET", "/nowhere"))
        assert opened.read(has_body=False).status_code == 200
        assert_failure(opened.read(), 404, "not_found")


def test_without_a_key_only_these_routes_answer(anonymous: httpx.Client) -> None:
    paths = anonymous.get("/openapi.json").json()["paths"]
    assert {"/tci/execute", "/tci/overview", "/metrics"} <= paths.keys()
    asked = [(method, path) for path, methods in paths.items() for method in methods]
    asked += [("get", path) for path in OPEN]
    answers = {path: anonymous.request(method, path).status_code for method, path in asked}
    assert {path for path, status in answers.items() if status == 200} == OPEN
    assert {status for path, status in answers.items() if path not in OPEN} == {401}
