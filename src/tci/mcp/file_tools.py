"""The tools that list, read and write a session's files, also while code runs in it."""

import base64
import codecs
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from urllib.parse import quote

from mcp.types import (
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
)

from tci.api.file_models import ANY_BYTES, FileData, FileList, FileModel
from tci.kernel.files import FileType
from tci.mcp.arguments import ListFiles, ReadFile, WriteFile
from tci.mcp.offer import Offer
from tci.mcp.results import IMAGES, ReadResult, told
from tci.mcp.room import ANSWER_BYTES, beginning
from tci.sessions.files import SessionFiles
from tci.storage.account_store import Caller

CHUNK_BYTES = 512 * 1024

MAX_LISTED = 500
"""Most files that an agent is told of."""


class FileTools:
    """What an agent may do with the files of its account's sessions."""

    def __init__(self, files: SessionFiles) -> None:
        self._files = files

    def offered(self) -> Iterator[tuple[str, Offer]]:
        """Give each tool with its name."""
        yield (
            "list_files",
            Offer(ListFiles, FileList, self._list, "List the files of a session.", only_reads=True),
        )
        yield (
            "read_file",
            Offer(
                ReadFile,
                ReadResult,
                self._read,
                "Read a file of a session: text as text, an image as an image, anything else as a resource. "
                "Of a long one read parts, by start and length.",
                only_reads=True,
            ),
        )
        yield (
            "write_file",
            Offer(
                WriteFile,
                FileData,
                self._write,
                "Write a file into a session's working directory; one of that name is replaced.",
                destroys=True,
            ),
        )

    async def _list(self, caller: Caller, asked: ListFiles) -> CallToolResult:
        found = await self._files.list(caller, asked.session_id)
        listed = [FileModel.of(info) for info in found.files[:MAX_LISTED]]
        data = FileList(files=listed, is_complete=found.is_complete and len(listed) == len(found.files))
        lines = [_line(file) for file in listed]
        if not data.is_complete:
            lines.append("... and more")
        return told("\n".join(lines) or "There are no files.", data)

    async def _read(self, caller: Caller, asked: ReadFile) -> CallToolResult:
        info, chunks = await self._files.read(
            caller, asked.session_id, asked.path, start=asked.start, length=asked.length
        )
        content = bytearray()
        async with aclosing(chunks):
            async for chunk in chunks:
                content += chunk
        file = FileModel.of(info)
        block, length = _block(asked, file, bytes(content))
        is_complete = asked.start + length >= file.size
        data = ReadResult(file=file, start=asked.start, length=length, is_complete=is_complete)
        return CallToolResult(content=[block], structured_content=data.model_dump(mode="json"))

    async def _write(self, caller: Caller, asked: WriteFile) -> CallToolResult:
        info = await self._files.write(caller, asked.session_id, asked.path, _chunks(asked.decoded()))
        data = FileData(file=FileModel.of(info))
        return told(f"{data.file.name}: {data.file.size} bytes written.", data)


def _line(file: FileModel) -> str:
    size = f"  {file.size} bytes" if file.type is FileType.FILE else f"  ({file.type})"
    return f"{file.name}{size}"


def _block(asked: ReadFile, file: FileModel, content: bytes) -> tuple[ContentBlock, int]:
    """Return what an agent is shown of a file, and how many bytes of it that is."""
    mime = file.mime or ANY_BYTES
    is_last = asked.start + len(content) >= file.size
    if mime in IMAGES and asked.start == 0 and is_last:
        return ImageContent(data=base64.b64encode(content).decode(), mime_type=mime), len(content)
    try:
        # A character that the part ends within is left to the next part.
        text = codecs.getincrementaldecoder("utf-8")().decode(content, final=is_last)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text and bool(text) is bool(content):
        text = beginning(text, ANSWER_BYTES)
        return TextContent(text=text), len(text.encode())
    uri = f"tci://{asked.session_id}/{quote(file.name)}"
    blob = BlobResourceContents(uri=uri, mime_type=mime, blob=base64.b64encode(content).decode())
    return EmbeddedResource(resource=blob), len(content)


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]
