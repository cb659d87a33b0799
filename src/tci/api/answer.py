"""Sends an answer that may take long: keeps the connection alive, and notices when the client goes away.

A plain handler is not cancelled by FastAPI when its client leaves, and the SDKs give up after a minute without a
byte and send the request again.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from tci.errors import ServiceError, Stopping

log = structlog.get_logger()

Body = tuple[bytes | bytearray, ...]
"""A body in parts: an answer may be large, and is not to be held twice to be joined."""

SEND_BYTES = 64 * 1024
"""Parts are sent together up to about this size."""


class LongAnswer(Response):
    """The JSON of some work: at once if it is soon done, else white space at intervals and then the JSON.

    Until the first byte a failure is raised and becomes a failure's answer. After it the status is spent:
    `render_late` makes the body then. If the client leaves, the work is cancelled. So it is if the server stops and
    waits no longer, but then what comes of the work is answered.
    """

    media_type = "application/json"

    def __init__(
        self,
        work: Coroutine[Any, Any, Body],
        *,
        interval: float,
        render_late: Callable[[ServiceError], Body],
    ) -> None:
        super().__init__()
        self._work = work
        self._interval = interval
        self._render_late = render_late

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not a TaskGroup: it would wrap a failure, which the failure handlers must see as it is.
        work = asyncio.create_task(self._work)
        gone = asyncio.create_task(_wait_until_gone(receive))
        try:
            await self._answer(work, gone, send)
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.wait({work, gone})

    async def _answer(self, work: asyncio.Task[Body], gone: asyncio.Task[None], send: Send) -> None:
        await self._wait(work, gone)
        if work.done():
            body = _result(work)
            await _start(send, (b"content-length", str(sum(map(len, body))).encode()))
            await _finish(send, body)
            return
        if not gone.done():
            await _start(send)
        while not work.done():
            if gone.done():
                log.info("Client left")
                return
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await self._wait(work, gone)
        try:
            body = _result(work)
        except ServiceError as error:
            log.exception("Request failed after its answer had begun", code=error.code)
            body = self._render_late(error)
        await _finish(send, body)

    async def _wait(self, work: asyncio.Task[Body], gone: asyncio.Task[None]) -> None:
        try:
            await asyncio.wait({work, gone}, timeout=self._interval, return_when=asyncio.FIRST_COMPLETED)
        except (
            asyncio.CancelledError
        ):  # the server stops and waits no longer; what has run is to be answered all the same
            work.cancel()
            await asyncio.wait({work})


def _result(work: asyncio.Task[Body]) -> Body:
    try:
        return work.result()
    except asyncio.CancelledError:  # nothing has run
        raise Stopping from None


async def _start(send: Send, *headers: tuple[bytes, bytes]) -> None:
    headers = ((b"content-type", b"application/json"), *headers)
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})


async def _finish(send: Send, body: Body) -> None:
    chunk = bytearray()
    for part in body:
        for start in range(0, len(part), SEND_BYTES):
            chunk += memoryview(part)[start : start + SEND_BYTES]
            if len(chunk) >= SEND_BYTES:
                # Waits while the client is slow, so no more than a chunk is copied at any time.
                await send({"type": "http.response.body", "body": bytes(chunk), "more_body": True})
                chunk.clear()
    await send({"type": "http.response.body", "body": bytes(chunk)})


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
