"""What every request passes before a route sees it: one spelling of the path, an id, a limit of the body."""

import asyncio
import re

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tci.api.failure import on_bug, on_service_error
from tci.errors import BodyTooLarge, Stopping
from tci.ids import random_text

log = structlog.get_logger()

STREAMED = re.compile(r"(/v1)?/tci/sessions/[^/]+/files(/.*)?", re.DOTALL)
"""Paths whose PUT and POST go on to the session as they come; what bounds them is its disk."""

SLASHES = re.compile("/{2,}")


class OneSlash:
    """Collapses repeated slashes: the 1.x SDK sends `//tci/execute`, and no SDK's body survives a redirect."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 (ASGI)
        if scope["type"] == "http" and "//" in scope["path"]:
            scope = {**scope, "path": SLASHES.sub("/", scope["path"])}
        await self._app(scope, receive, send)


class RequestId:
    """Gives each request an id, in its answer's `x-request-id` and in every log line about it.

    It is also where a bug ends: in a failure as any other, unless the answer has begun.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 (ASGI)
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{random_text(16)}"
        structlog.contextvars.clear_contextvars()  # a pipelined request begins in the task of the one before it
        has_begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except asyncio.CancelledError:  # the server stops and waits no longer
                if not has_begun:
                    refusal = await on_service_error(Request(scope), Stopping())
                    await refusal(scope, receive, send_with_id)
            except Exception:
                log.exception("Bug")
                if has_begun:
                    raise
                await on_bug()(scope, receive, send_with_id)


class BodyLimit:
    """Refuses a body over the limit while it is being read: neither a length nor its absence is believed."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 (ASGI)
        is_streamed = scope.get("method") in {"PUT", "POST"} and STREAMED.fullmatch(scope["path"])
        if scope["type"] != "http" or is_streamed:
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._limit:
            refusal = await on_service_error(Request(scope), BodyTooLarge(self._limit))
            await refusal(scope, receive, send)
            return
        read = 0

        async def receive_limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise BodyTooLarge(self._limit)
            return message

        await self._app(scope, receive_limited, send)
