"""The protocol's one path over HTTP: who is let in, and that no request needs another before it."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.api.failures import assert_failure
from tests.conftest import Service

HEADERS = {"Accept": "application/json, text/event-stream"}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_sessions", "arguments": {}}}


def post(service: Service, path: str = "/mcp", *, body: Any = CALL, **headers: str) -> httpx.Response:
    return service.client.post(path, json=body, headers=HEADERS | headers)


def test_call_without_a_handshake_is_answered(live_service: Service) -> None:
    answer = post(live_service)
    assert answer.status_code == 200
    assert '"structuredContent":{"sessions":' in answer.text


@pytest.mark.parametrize("authorization", ["", "Bearer unknown", "Basic dTpw", "Bearer"])
def test_wrong_key_is_refused(live_service: Service, authorization: str) -> None:
    assert_failure(post(live_service, Authorization=authorization), 401, "invalid_api_key")


def test_page_in_a_browser_is_refused(live_service: Service) -> None:
    for origin in ("https://evil.example", live_service.url, "null", ""):
        assert_failure(post(live_service, Origin=origin), 403, "origin_not_allowed")


def test_page_that_the_operator_lists_is_let_in(start_service: Callable[..., Service]) -> None:
    service = start_service(mcp_origins="https://a.example, https://b.example")
    assert post(service, Origin="https://b.example").status_code == 200
    assert_failure(post(service, Origin="https://c.example"), 403, "origin_not_allowed")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
def test_nothing_is_kept_to_get_or_delete(live_service: Service, method: str) -> None:
    answer = live_service.client.request(method, "/mcp", headers=HEADERS)
    assert_failure(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v1/mcp", "/tci/mcp", "/mcp/", "/mcp/x"])
def test_other_paths_are_not_found(live_service: Service, path: str) -> None:
    assert_failure(post(live_service, path), 404, "not_found")


def test_body_that_is_not_json_or_too_large_is_refused(live_service: Service) -> None:
    answer = live_service.client.post("/mcp", content="x", headers={"Content-Type": "text/plain"})
    assert_failure(answer, 400, "invalid_request", param="Content-Type")
    too_large = b" " * (64 * 1024**2 + 1)
    answer = live_service.client.post("/mcp", content=too_large, headers={"Content-Type": "application/json"})
    assert_failure(answer, 413, "body_too_large")
