"""The one body of every non-2xx answer, whatever route or cause."""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from tci import metrics
from tci.errors import BodyTooLarge, DiskFull, RangeNotSatisfiable, ServiceError

log = structlog.get_logger()

CODES = {
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body_too_large",
}
"""Codes of the failures that the framework finds."""


MAX_MESSAGE = 500
"""Longest message, which may name what the caller sent."""


def failure(
    status: int,
    message: str,
    *,
    code: str,
    type: str = "invalid_request_error",  # noqa: A002 (the wire's name)
    param: str | None = None,
    headers: dict[str, str] | None = None,
    retry_after: int | None = None,
) -> JSONResponse:
    """Return a failure. `error` is for the 1.x SDK, `message` for TypeScript, `errors` for hand-written clients."""
    metrics.FAILURES_ANSWERED.labels(code).inc()
    message = printable(message)
    body: dict[str, Any] = {
        "error": {"message": message, "type": type, "param": param, "code": code},
        "message": message,
        "data": None,
        "errors": [message],
    }
    all_headers = dict(headers or {})
    if retry_after is None:
        # The SDKs repeat a 5xx by themselves; where the answer would be the same, that only costs time.
        all_headers["x-should-retry"] = "false"
    if retry_after is not None or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # 1.x knows no x-should-retry, repeats five times, and waits half a minute in all unless told how long.
        all_headers["retry-after"] = str(retry_after or 1)
    return JSONResponse(body, status_code=status, headers=all_headers)


def error_object(error: ServiceError) -> dict[str, str | None]:
    """Return the `error` of a failure's body, for a stream that has begun."""
    return {"message": printable(str(error)), "type": error.type, "param": error.param, "code": error.code}


def printable(text: str) -> str:
    """Return a message that every SDK prints as it is: some escape what is not ASCII, quotes and backslashes."""
    plain = text.replace('"', "'").replace("\\", "/").encode("ascii", "replace").decode()
    return "".join(character if character.isprintable() else "?" for character in plain)[:MAX_MESSAGE]


async def on_service_error(_request: Request, error: Exception) -> JSONResponse:
    """Render an expected failure as its class says."""
    if not isinstance(error, ServiceError):  # pragma: no cover (registered for this class only)
        raise error
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("Request failed", code=error.code, exc_info=error)
    return failure(
        error.status,
        str(error),
        code=error.code,
        type=error.type,
        param=error.param,
        retry_after=error.retry_after,
        headers=_headers(error),
    )


def _headers(error: ServiceError) -> dict[str, str] | None:
    match error:
        case BodyTooLarge() | DiskFull():  # the rest of the body is not read
            return {"connection": "close"}
        case RangeNotSatisfiable():
            return {"content-range": f"bytes */{error.size}"}
        case _:
            return None


async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Render what the framework refuses by itself: unknown paths, wrong methods."""
    if not isinstance(error, HTTPException):  # pragma: no cover (registered for this class only)
        raise error
    status = HTTPStatus(error.status_code)
    code = CODES.get(status, "invalid_request")
    headers = dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED and (methods := _allowed(request)):
        headers["Allow"] = ", ".join(sorted(methods))
    return failure(status, f"{status.phrase}.", code=code, headers=headers)


def _allowed(request: Request) -> set[str]:
    """Return every method of a path; the framework tells those of the first of its routes alone."""
    path, paths = request.url.path.removeprefix("/v1"), request.app.openapi()["paths"]
    return {method.upper() for name in paths if compile_path(name)[0].match(path) for method in paths[name]}


async def on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    """Render a request whose parameters don't fit; names the first of them."""
    if not isinstance(error, RequestValidationError):  # pragma: no cover (registered for this class only)
        raise error
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    reason = first["msg"].removeprefix("Value error, ")
    return failure(HTTPStatus.BAD_REQUEST, f"{param}: {reason}", code="invalid_request", param=param)


def on_bug() -> JSONResponse:
    """Render what nobody expected; the traceback goes to the log, not to the caller."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return failure(status, "The service failed. Its log says why.", code="internal_error", type="server_error")


def install(app: FastAPI) -> None:
    """Make every failure of the app leave in this form."""
    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
