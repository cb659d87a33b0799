"""Bytes on their way: bodies that are read piece by piece, and answers that are a file."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from email.utils import format_datetime
from urllib.parse import quote

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from tci.api.answer import SEND_BYTES, wait_until_gone
from tci.api.byte_range import etag_of
from tci.api.file_models import mime_of
from tci.errors import DiskFull, InvalidRequest, ServiceError
from tci.kernel.files import FileInfo

log = structlog.get_logger()

STALL_SECONDS = 60.0
"""How long a client may take or send nothing: it holds a connection to the session's kernel."""


async def body_of(request: Request, *, disk_bytes: int) -> AsyncIterator[bytes]:
    """Give a body as it comes; one that says that it is larger than any session's disk is refused before."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > disk_bytes:
        raise DiskFull(disk_bytes)
    async with aclosing(request.stream()) as pieces:
        while True:
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    piece = await anext(pieces, None)
            except ClientDisconnect:
                raise InvalidRequest("The client left before its request was complete.") from None
            except TimeoutError:
                raise InvalidRequest(f"The client sent nothing for {STALL_SECONDS:g} seconds.") from None
            if piece is None:
                return
            yield piece


def file_headers(info: FileInfo) -> dict[str, str]:
    """Return what is said of a file's bytes: a browser must neither guess at them nor run them."""
    base = info.name.rpartition("/")[2]
    return {
        "content-type": mime_of(info.name),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(base, safe='')}",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",  # where it is shown all the same
        "cache-control": "no-store",
        "accept-ranges": "bytes",
        "etag": etag_of(info),
        "last-modified": format_datetime(info.modified_at, usegmt=True),
    }


class FileAnswer(Response):
    """A file's bytes, a piece at a time; where they end too soon the connection is closed, so that it is noticed."""

    def __init__(
        self, pieces: AsyncGenerator[bytes | bytearray, None], *, size: int, status_code: int, headers: dict[str, str]
    ) -> None:
        super().__init__(status_code=status_code, headers={**headers, "content-length": str(size)})
        self._pieces = pieces

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        gone = asyncio.create_task(wait_until_gone(receive))
        try:
            if await self._send_pieces(gone, send):
                await send({"type": "http.response.body", "body": b""})
        except ServiceError as error:  # the status is spent
            log.warning("A download was cut", code=error.code, reason=str(error))
        except TimeoutError:
            log.info("A download was cut: its client took nothing for too long")
        finally:
            gone.cancel()
            await asyncio.wait({gone})

    async def _send_pieces(self, gone: asyncio.Task[None], send: Send) -> bool:
        """Return whether all was sent."""
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                for start in range(0, len(piece), SEND_BYTES):
                    if gone.done():
                        return False
                    body = bytes(memoryview(piece)[start : start + SEND_BYTES])
                    async with asyncio.timeout(STALL_SECONDS):  # waits while the client is slow
                        await send({"type": "http.response.body", "body": body, "more_body": True})
        return True
