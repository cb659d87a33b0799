"""The parts of a multipart/form-data body as they come: no more of one is held than came in one piece."""

import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from tci.errors import InvalidRequest

# It warns of every malformed form, which is its sender's business.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

MAX_PARTS = 1000

MAX_OTHER_BYTES = 64 * 1024
"""Most that the parts that are no files may weigh together."""


@dataclass(slots=True)
class Headers:
    """The end of a part's headers: a file's bytes follow if there is a name."""

    file_name: str | None


@dataclass(slots=True)
class Data:
    """Bytes of a part."""

    content: bytearray = field(default_factory=bytearray)


class PartEnd:
    """The end of a part."""


class BodyEnd:
    """The end of all parts."""


Event = Headers | Data | PartEnd | BodyEnd


class Parts:
    """The files of one body."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidRequest("The body must be multipart/form-data with a boundary.", param="files")
        self._body = body
        self._events: deque[Event] = deque()
        self._field, self._value, self._disposition = bytearray(), bytearray(), b""
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": lambda: self._events.append(Headers(_file_name(self._disposition))),
                    "on_part_data": self._on_part_data,
                    "on_part_end": lambda: self._events.append(PartEnd()),
                    "on_end": lambda: self._events.append(BodyEnd()),
                },
            )
        except FormParserError as error:
            raise _malformed() from error

    async def files(self) -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
        """Give each file's name and its bytes, which must be gone through before the next; raises InvalidRequest."""
        count, others = 0, 0
        while True:
            match await self._next():
                case Headers(file_name):
                    count += 1
                    if count > MAX_PARTS:
                        raise InvalidRequest(f"More than {MAX_PARTS} parts.", param="files")
                    if file_name is not None:
                        yield file_name, self._content()
                case Data(content):
                    others += len(content)
                    if others > MAX_OTHER_BYTES:
                        raise InvalidRequest("A part without a file name is too large.", param="files")
                case PartEnd():
                    pass
                case BodyEnd():
                    return

    async def _content(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._next(), Data):
            yield bytes(event.content)

    async def _next(self) -> Event:
        while not self._events:
            piece = await anext(self._body, None)
            try:
                if piece is None:  # it ended before its last boundary
                    raise _malformed()
                self._parser.write(piece)
            except FormParserError as error:
                raise _malformed() from error
        return self._events.popleft()

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        # A piece full of what may be a boundary comes in as many small ones.
        if not self._events or not isinstance(self._events[-1], Data):
            self._events.append(Data())
        last = self._events[-1]
        if isinstance(last, Data):
            last.content += memoryview(data)[start:end]


def _file_name(disposition: bytes) -> str | None:
    _kind, options = parse_options_header(disposition.decode("latin-1"))
    name = options.get(b"filename")
    if name is None:
        return None
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The name of a file is not UTF-8.", param="files") from None


def _malformed() -> InvalidRequest:
    return InvalidRequest("The body is not valid multipart/form-data.", param="files")
