"""HTTP as uvicorn speaks it, with bounds on what comes before the body and on silence, and our words for no HTTP."""

import asyncio
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tci.api.failure import failure

MAX_HEAD_BYTES = 64 * 1024
"""Most that the target and the headers of a request may weigh together; usual servers allow 8 to 64 KiB."""

HEAD_SECONDS = 30.0
"""How long a head may take, from the connection or, on one that is kept, from its first byte."""

SILENCE_SECONDS = 60.0
"""How long the next piece of a body may take."""


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose head is too large, before it is all in memory, and one that stops in its request."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_in_head = True
        self._is_in_body = False
        self._head_bytes = 0
        self._patience: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._expect_more(HEAD_SECONDS)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        # What came before this piece was all head. A body may begin in the same piece, so this one is not counted yet.
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response("")
            return
        self._head_bytes += len(data)
        if self._is_in_head and self._patience is None:  # the next request on a connection that was kept
            self._expect_more(HEAD_SECONDS)
        super().data_received(data)
        if self._is_in_body:
            self._expect_more(SILENCE_SECONDS)

    def _expect_more(self, seconds: float) -> None:
        self._expect_nothing()
        self._patience = asyncio.get_running_loop().call_later(seconds, self._give_up, seconds)

    def _expect_nothing(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self, seconds: float) -> None:
        if self._is_in_body and self.flow.read_paused:  # it is the service that does not read
            self._expect_more(seconds)
        else:
            self.transport.close()

    @override
    def on_headers_complete(self) -> None:
        self._is_in_head, self._is_in_body = False, True
        self._expect_nothing()
        super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        self._is_in_head, self._is_in_body, self._head_bytes = True, False, 0
        self._expect_nothing()
        super().on_message_complete()

    @override
    def send_400_response(self, msg: str) -> None:
        answer = failure(400, "The request is not valid HTTP, or its head is too large.", code="invalid_request")
        headers = b"".join(b"%s: %s\r\n" % pair for pair in answer.raw_headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + headers + b"connection: close\r\n\r\n" + answer.body)
        self.transport.close()
