"""What every failure must look like, whatever route or cause."""

import httpx

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
RETRIED = {429, 503, 504}
"""Statuses after which the same request may work: they say when to try again."""

LONGEST_MESSAGE = 500


def assert_failure(response: httpx.Response, status: int, code: str, *, param: str | None = None) -> str:
    """Check every part of a failure and return its message; each part has a client that reads it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    message: str = body["message"]
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    assert body == {
        "error": {"message": message, "type": kind, "param": param, "code": code},
        "message": message,
        "data": None,
        "errors": [message],
    }
    assert_readable(message)
    assert response.headers.get("x-should-retry") == (None if status in RETRIED else "false")
    if status in RETRIED or status >= 500:  # 1.x knows no x-should-retry: it must at least not wait long
        assert 1 <= int(response.headers["retry-after"]) <= 60
    else:
        assert "retry-after" not in response.headers
    assert response.headers["x-request-id"].startswith("req_")
    return message


def assert_readable(message: str) -> None:
    """Check that every SDK prints a message as it is: 1.x shows a repr, TypeScript shows JSON."""
    assert isinstance(message, str)
    assert 0 < len(message) <= LONGEST_MESSAGE
    assert message.isascii(), message
    assert message.isprintable(), message
    assert '"' not in message, message
    assert "\\" not in message, message
