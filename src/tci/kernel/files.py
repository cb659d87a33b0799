"""A session's files, as its kernel tells of them: every answer may be nonsense, and may be meant to be."""

import asyncio
import contextlib
import datetime as dt
import errno
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from tci.errors import DiskFull, FileNotFound, InvalidRequest, KernelFailed, ServiceError, TooManyTransfers
from tci.kernel.client import Ask
from tci.kernel.messages import Frame
from tci.kernel.names import fault_of_existing

CHUNK_BYTES = 512 * 1024
"""Bytes of a file that are on their way at a time; a reply of the kernel is taken up to 1 MiB."""

MAX_LISTED = 5000
"""Most files of a list; the launcher has the same bound, and code can undo that one."""

MAX_VERSION_CHARACTERS = 64

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

MAX_INT = 2**63 - 1

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
LATEST_MICROSECONDS = int(dt.datetime(9999, 1, 1, tzinfo=dt.UTC).timestamp()) * 10**6
"""Code may set a file's time to any; what no calendar has is shown as the end or the beginning of this one."""


class FileType(StrEnum):
    """What a name stands for; only a file can be read."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file of a session."""

    name: str
    size: int
    modified_at: dt.datetime
    type: FileType


@dataclass(frozen=True, slots=True)
class Listing:
    """A session's files by name, hidden ones left out."""

    files: tuple[FileInfo, ...]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that can be read, and by which its later pieces are known to be of the same one."""

    info: FileInfo
    version: str


class Entry(msgspec.Struct):
    """What the launcher says of a file."""

    name: str
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_INT)]
    modified: Annotated[int, msgspec.Meta(ge=-MAX_INT, le=MAX_INT)]
    type: FileType


class KernelFiles:
    """The working directory of one session, over one control connection."""

    def __init__(self, ask: Ask, *, disk_bytes: int) -> None:
        self._ask = ask
        self._disk_bytes = disk_bytes

    async def list(self) -> Listing:
        """Return what is there; raises KernelFailed."""
        content, buffers = await self._answer("list_request", {}, name="")
        try:
            entries = msgspec.json.decode(
                _only(buffers), type=Annotated[list[Entry], msgspec.Meta(max_length=MAX_LISTED)]
            )
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _nonsense("list_request") from error
        files = [_info(entry, entry.name) for entry in entries if fault_of_existing(entry.name) is None]
        is_complete = content.get("is_complete") is True and len(files) == len(entries)
        return Listing(tuple(sorted(files, key=lambda file: file.name)), is_complete)

    async def find(self, name: str) -> FoundFile:
        """Return a file that can be read; raises FileNotFound, InvalidRequest and KernelFailed."""
        content, _buffers = await self._get(name, start=0, length=0, version=None)
        info, version = _info_of(content, name, "get_request"), content.get("version")
        if not isinstance(version, str) or len(version) > MAX_VERSION_CHARACTERS or info.type is not FileType.FILE:
            raise _nonsense("get_request")
        if info.size > self._disk_bytes:  # it has holes, or is a lie
            raise InvalidRequest(f"The file {name[:200]} is larger than the session's disk.", param="path")
        return FoundFile(info, version)

    async def read(self, found: FoundFile, *, start: int, length: int) -> bytes | bytearray:
        """Return exactly this piece of a file, at most CHUNK_BYTES; raises as `find` does."""
        name = found.info.name
        _content, buffers = await self._get(name, start=start, length=length, version=found.version)
        piece = _only(buffers)
        if len(piece) > length:
            raise _nonsense("get_request")
        if len(piece) < length:
            raise InvalidRequest(f"The file {name} became shorter while it was read.", param="path")
        return piece

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> FileInfo:
        """Write a file, whole or not at all; raises DiskFull, TooManyTransfers, InvalidRequest and KernelFailed."""
        token, start = secrets.token_hex(16), 0
        content: dict[str, Any] = {}
        try:
            async for part, is_last in _in_parts(chunks):
                self._require_room(start + len(part))
                request = {"name": name, "token": token, "start": start, "is_last": is_last}
                content, _buffers = await self._answer("put_part_request", request, (part,), name=name)
                start += len(part)
            info = _info_of(content, name, "put_part_request")
        except BaseException:
            # Its parts are not to lie about; a kernel that does not answer has given them up with itself.
            await asyncio.shield(self._drop(token))
            raise
        return replace(info, size=start, type=FileType.FILE)

    async def delete(self, name: str) -> None:
        """Remove a file, a link or an empty directory; raises FileNotFound, InvalidRequest and KernelFailed."""
        await self._answer("delete_request", {"name": name}, name=name)

    async def _drop(self, token: str) -> None:
        with contextlib.suppress(ServiceError):  # then there is nothing that could be left
            await self._ask("drop_request", {"token": token})

    def _require_room(self, size: int) -> None:
        if size > self._disk_bytes:
            raise DiskFull(self._disk_bytes)

    async def _get(
        self, name: str, *, start: int, length: int, version: str | None
    ) -> tuple[dict[str, Any], Sequence[Frame]]:
        request = {"name": name, "start": start, "length": length, "version": version}
        return await self._answer("get_request", request, name=name)

    async def _answer(
        self, message_type: str, content: dict[str, Any], buffers: Sequence[bytes] = (), *, name: str
    ) -> tuple[dict[str, Any], Sequence[Frame]]:
        """Ask and return a good answer's content and buffers; raises what a bad one stands for."""
        message, replied = await self._ask(message_type, content, buffers)
        if message.content.get("status") == "ok":
            return message.content, replied
        number, reason = message.content.get("errno"), message.content.get("evalue")
        if not (isinstance(number, int) and isinstance(reason, str)):
            raise _nonsense(message_type)
        is_write = message_type == "put_part_request"
        if number == errno.ENOENT and not is_write:
            raise FileNotFound(name)
        if number in FULL and is_write:
            raise DiskFull(self._disk_bytes)
        if number == errno.EAGAIN and is_write:
            raise TooManyTransfers
        raise InvalidRequest(f"{name[:200]}: {reason[:200]}", param="path")


def _nonsense(message_type: str) -> KernelFailed:
    return KernelFailed(f"The kernel answered a {message_type} with something that is no answer to it.")


def _only(buffers: Sequence[Frame]) -> Frame:
    return buffers[0] if len(buffers) == 1 else b""


def _info_of(content: dict[str, Any], name: str, message_type: str) -> FileInfo:
    try:
        return _info(msgspec.convert(content.get("file"), Entry), name)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _nonsense(message_type) from error


def _info(entry: Entry, name: str) -> FileInfo:
    since = max(0, min(entry.modified, LATEST_MICROSECONDS))
    return FileInfo(name, entry.size, EPOCH + dt.timedelta(microseconds=since), entry.type)


async def _in_parts(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """Give the bytes again in parts of CHUNK_BYTES, and with each whether it is the last; there is one at least."""
    held = bytearray()
    async for chunk in chunks:
        for begin in range(0, len(chunk), CHUNK_BYTES):
            held += memoryview(chunk)[begin : begin + CHUNK_BYTES]
            if len(held) > CHUNK_BYTES:
                part = bytes(memoryview(held)[:CHUNK_BYTES])
                del held[:CHUNK_BYTES]
                yield part, False
    yield bytes(held), True
