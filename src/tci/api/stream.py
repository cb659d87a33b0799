"""Sends an execution's outputs as they come, as server-sent events (WHATWG HTML, section 9.2)."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

import orjson
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from tci.api.answer import in_chunks, result_of, wait_until_gone
from tci.api.failure import error_object
from tci.api.models import WireStatus, extension_of, session_event
from tci.errors import ServiceError, Stopping
from tci.kernel.output_buffer import OutputBuffer
from tci.sessions.session import Execution, Follower
from tci.storage.session_store import Session

log = structlog.get_logger()

MEDIA_TYPE = "text/event-stream"

LAST_WORDS_SECONDS = 2.0
"""How long a stop waits, once the code has been interrupted, for a slow reader to take what is left."""

Part = bytes | bytearray

NO_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")

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

    Until the first byte, which is the `session` event's, a failure is raised and becomes a failure's answer. If the
    client leaves, the run is interrupted. A slow reader only holds up its own events: what it has not taken waits in
    the OutputBuffer, within that one's limit.
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
        self._beginning = asyncio.Lock()
        self._expected: Session | None = None
        self._outputs: OutputBuffer | None = None
        self._has_begun = False
        self._has_heard = False

    @property
    @override
    def has_heard(self) -> bool:
        return self._has_heard

    @override
    def expect(self, session: Session) -> None:
        self._expected = session

    @override
    async def begin(self, session: Session, outputs: OutputBuffer) -> None:
        await self._tell_of(session)
        self._has_heard = not self._gone.done()
        self._outputs = outputs
        outputs.has_more = self._news.set

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self._gone = asyncio.create_task(wait_until_gone(receive))
        work = asyncio.create_task(self._execute(self))
        following = asyncio.create_task(self._follow(work))
        for task in (work, self._gone):
            task.add_done_callback(lambda _: self._news.set())
        try:
            await asyncio.shield(following)
        except asyncio.CancelledError:  # the server stops and waits no longer; what has run is to be told all the same
            work.cancel()
            await asyncio.wait({work})
            await asyncio.wait({following}, timeout=LAST_WORDS_SECONDS)
            if not following.done():
                raise
            following.result()
        finally:
            tasks: set[asyncio.Task[Any]] = {work, following, self._gone}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _follow(self, work: asyncio.Task[Execution]) -> None:
        while not (work.done() or self._gone.done()):
            if not await self._has_news() and not work.done():
                await self._break_silence()
            await self._send_parts(self._taken())
        if self._gone.done():
            log.info("Client left")
            return
        try:
            execution = result_of(work)
            await self._send_parts(itertools.chain(self._taken(), self._rest()))
        except Exception as error:
            if not self._has_begun:
                raise
            await self._send_last("error", error_object(_failure_of(error)))
        else:
            await self._send_last("execution", {**extension_of(execution).model_dump(), "status": self._status})

    async def _has_news(self) -> bool:
        """Wait for news; return False if it is time for a heartbeat before there is any."""
        try:
            async with asyncio.timeout(self._interval):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    async def _break_silence(self) -> None:
        """Keep the connection alive. While a session is being opened it has no event yet, and nothing precedes that."""
        if self._has_begun:
            await self._send_body(b": heartbeat\n\n")
        elif self._expected is not None:
            await self._tell_of(self._expected)

    async def _tell_of(self, session: Session) -> None:
        async with self._beginning:  # the call that waits for its turn, and the run that has begun, both come here
            if self._has_begun:
                return
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-store"),
                (b"x-accel-buffering", b"no"),  # else nginx holds the events back
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send_parts(_event("session", orjson.dumps(session_event(session))))
            self._has_begun = True

    def _taken(self) -> Iterator[Part]:
        # One at a time: what a slow reader has not taken stays in the buffer.
        while self._outputs is not None and not self._gone.done() and (output := self._outputs.take()) is not None:
            yield from _event("output", *output)

    def _rest(self) -> Iterator[Part]:
        for output in self._outputs.rest() if self._outputs is not None else ():
            yield from _event("output", *output)

    async def _send_last(self, name: str, data: dict[str, Any]) -> None:
        await self._send_parts(_event(name, orjson.dumps(data)))
        await self._send({"type": "http.response.body", "body": b""})

    async def _send_parts(self, parts: Iterable[Part]) -> None:
        """Send whole events, many small ones at once, and of a large one no more at once than a chunk."""
        for chunk in in_chunks(parts):
            if chunk:
                await self._send_body(chunk)
                await asyncio.sleep(0)  # a fast reader's connection never gives way by itself

    async def _send_body(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


def _event(name: str, *data: Part) -> Iterator[Part]:
    """Give an event in parts. Its data is JSON, and one line: what breaks lines can only be white space there."""
    yield b"event: " + name.encode() + b"\ndata: "
    for part in data:
        # A large display stays the JSON that the sandbox wrote. Its line breaks would cut the event.
        yield part.translate(NO_LINE_BREAKS) if b"\n" in part or b"\r" in part else part
    yield b"\n\n"


def _failure_of(error: Exception) -> ServiceError:
    """Return what an `error` event says, and log what the client can't know."""
    if isinstance(error, Stopping):
        return error
    if isinstance(error, ServiceError):
        log.error("Request failed after its answer had begun", code=error.code, exc_info=error)
        return error
    log.error("Bug", exc_info=error)
    return ServiceError("The service failed. Its log says why.")
