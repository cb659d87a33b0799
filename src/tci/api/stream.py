"""Sends an execution's outputs as they come, as server-sent events (WHATWG HTML, section 9.2)."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import orjson
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from tci.api.answer import wait_until_gone
from tci.api.failure import error_object
from tci.api.models import WireStatus, extension_of, session_event
from tci.errors import ServiceError, Stopping
from tci.kernel.output_buffer import OutputBuffer
from tci.sessions.session import Execution, Follower
from tci.storage.session_store import Session

log = structlog.get_logger()

MEDIA_TYPE = "text/event-stream"

LAST_WORD_SECONDS = 1.0
"""How long a stop waits for a slow reader to take the last event."""

EXAMPLE = """event: session
data: {"session_id":"ses_...","expires_at":"2026-01-01T13:00:00.000000Z"}

event: output
data: {"type":"stdout","data":"Hello, world!\\n"}

event: execution
data: {"verdict":"ok","duration_ms":3.2,"cpu_ms":2.1,"peak_memory_bytes":61000000,"execute_count":1,\
"expires_at":"2026-01-01T13:00:00.000000Z","status":"completed"}

"""


class OutputStream(Response, Follower):
    """The events of one run: `session`, any `output`s, and at the end one `execution` or `error`, always.

    Until the first byte a failure is raised and becomes a failure's answer. If the client leaves, the run is
    interrupted. A slow reader only holds up its own events: what it has not taken waits in the OutputBuffer, within
    that one's limit.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        execute: Callable[[Follower], Coroutine[Any, Any, Execution]],
        *,
        interval: float,
        status: WireStatus,
    ) -> None:
        super().__init__()
        self._execute = execute
        self._interval = interval
        self._status = status
        self._news = asyncio.Event()
        self._sending = asyncio.Lock()
        self._has_begun = False
        self._has_heard = False
        self._outputs: OutputBuffer | None = None

    @property
    @override
    def has_heard(self) -> bool:
        return self._has_heard

    @override
    async def begin(self, session: Session, outputs: OutputBuffer) -> None:
        await self._send_event("session", orjson.dumps(session_event(session)))
        self._has_heard = not self._gone.done()
        self._outputs = outputs
        outputs.has_more = self._news.set

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self._gone = asyncio.create_task(wait_until_gone(receive))
        work = asyncio.create_task(self._execute(self))
        for task in (work, self._gone):
            task.add_done_callback(lambda _: self._news.set())
        try:
            await self._follow(work)
        except asyncio.CancelledError:  # the server stops and waits no longer; a stream must not end in its middle
            work.cancel()
            if self._has_begun:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_WORD_SECONDS):
                        await self._send_last("error", error_object(Stopping()))
            raise
        finally:
            self._gone.cancel()
            work.cancel()
            await asyncio.wait({work, self._gone})

    async def _follow(self, work: asyncio.Task[Execution]) -> None:
        while not work.done():
            is_silent = not await self._wait()
            if self._gone.done():
                log.info("Client left")
                return
            if is_silent and not work.done():
                await self._send_bytes(b": heartbeat\n\n")
            await self._send_taken()
        try:
            execution = work.result()
        except ServiceError as error:
            if not self._has_begun:
                raise
            log.exception("Request failed after its answer had begun", code=error.code)
            await self._send_last("error", error_object(error))
            return
        except Exception:
            if not self._has_begun:
                raise
            log.exception("Bug")
            await self._send_last("error", error_object(ServiceError("The service failed. Its log says why.")))
            return
        await self._send_taken()
        if self._outputs is not None:
            for output in self._outputs.rest():
                await self._send_event("output", output)
        await self._send_last("execution", {**extension_of(execution).model_dump(), "status": self._status})

    async def _wait(self) -> bool:
        """Wait for news, and return whether there is any before it is time for a heartbeat."""
        try:
            async with asyncio.timeout(self._interval):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    async def _send_taken(self) -> None:
        # One at a time: what a slow reader has not taken stays in the buffer.
        while self._outputs is not None and not self._gone.done() and (output := self._outputs.take()) is not None:
            await self._send_event("output", output)

    async def _send_event(self, name: str, data: bytes) -> None:
        # JSON has no line breaks of its own, so it is one line of data. Whole events only: a stop may come between.
        await self._send_bytes(b"event: %s\ndata: %s\n\n" % (name.encode(), data))

    async def _send_last(self, name: str, data: dict[str, Any]) -> None:
        await self._send_event(name, orjson.dumps(data))
        await self._send({"type": "http.response.body", "body": b""})

    async def _send_bytes(self, body: bytes) -> None:
        async with self._sending:  # the run's own task tells of the session
            if not self._has_begun:
                self._has_begun = True
                headers = [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-store"),
                    (b"x-accel-buffering", b"no"),  # else nginx holds the events back
                ]
                await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
