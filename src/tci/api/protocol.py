"""HTTP as uvicorn speaks it, with a bound on what comes before the body, and our words for what is no HTTP."""

from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tci.api.failure import failure

MAX_HEAD_BYTES = 64 * 1024
"""Most that the target and the headers of a request may weigh together; usual servers allow 8 to 64 KiB."""


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose head is too large, before it is all in memory."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_in_head = True
        self._head_bytes = 0

    @override
    def data_received(self, data: bytes) -> None:
        # What came before this piece was all head. A body may begin in the same piece, so this one is not counted yet.
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response("")
            return
        self._head_bytes += len(data)
        super().data_received(data)

    @override
    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_complete()

    @override
    def send_400_response(self, msg: str) -> None:
        answer = failure(400, "The request is not valid HTTP, or its head is too large.", code="invalid_request")
        headers = b"".join(b"%s: %s\r\n" % pair for pair in answer.raw_headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + headers + b"connection: close\r\n\r\n" + answer.body)
        self.transport.close()
