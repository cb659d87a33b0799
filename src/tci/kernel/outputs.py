"""From kernel messages to outputs: a pure translation, and a buffer that keeps an execution's outputs."""

import io
import itertools
import json
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tci.kernel.messages import Message

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
"""Terminal escape sequences of ECMA-48: CSI, OSC and the two-character ones."""


class OutputType(StrEnum):
    """The documented types of an output."""

    STDOUT = "stdout"
    STDERR = "stderr"
    ERROR = "error"
    DISPLAY_DATA = "display_data"
    EXECUTE_RESULT = "execute_result"


MAX_JSON_DEPTH = 64
"""Deepest JSON that is passed on; what is deeper becomes null, since parsers of clients give up somewhere."""

PIECE_BYTES = 128
"""What a piece of output costs in memory beside its bytes; so a flood of tiny displays is bounded as well."""

VALUE_BYTES = 128
"""What a value in a bundle costs in memory beside its text."""

MAX_MIME_CHARACTERS = 255
"""Longest media type that is passed on; RFC 6838 allows 127 for each of its two parts."""

MAX_PIECE_BYTES = 64 * 1024
"""Longest piece of a text: what is dropped at once when there is too much."""

STREAMS = {"stdout": OutputType.STDOUT, "stderr": OutputType.STDERR}

TEXTS = frozenset({OutputType.STDOUT, OutputType.STDERR, OutputType.ERROR})
"""The types whose neighbouring pieces are one output; of errors there is one at most."""


@dataclass(frozen=True, slots=True)
class Output:
    """One item of `outputs`, the same inside as on the wire.

    `data` is text for streams and errors, a MIME bundle (media type to representation) for displays.
    """

    type: OutputType
    data: str | dict[str, Any]


def to_output(message: Message) -> Output | None:
    """Translate one message, or return None if it shows nothing or is not what it should be."""
    content = message.content
    match message.type, content:
        case "stream", {"name": str(name), "text": str(text)} if name in STREAMS:
            return Output(STREAMS[name], clean_text(text)) if text else None
        case ("display_data" | "execute_result") as kind, {"data": dict(data)}:
            bundle = _bundle(data)
            return Output(OutputType(kind), bundle) if bundle else None
        case "error", _:
            return to_error(content)
        case _:
            return None


def to_error(content: dict[str, Any]) -> Output:
    """Translate the content of an `error` message or of a failed reply: the traceback as plain text."""
    traceback = content.get("traceback")
    if isinstance(traceback, list) and traceback:
        text = "\n".join(line for line in traceback if isinstance(line, str))
    else:
        text = ": ".join(
            part for part in (content.get("ename"), content.get("evalue")) if part and isinstance(part, str)
        )
    return Output(OutputType.ERROR, ANSI.sub("", clean_text(text)) or "Error")


def clean_text(text: str) -> str:
    """Return text that is valid UTF-8 once encoded: a lone surrogate becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _bundle(data: dict[str, Any]) -> dict[str, Any]:
    """Return a MIME bundle as documented: objects for JSON types, strings for all others, never lists of lines."""
    bundle: dict[str, Any] = {}
    for mime, value in data.items():
        if len(mime) > MAX_MIME_CHARACTERS:
            continue
        if not (mime == "application/json" or mime.endswith("+json")):
            bundle[clean_text(mime)] = _text(value)
        elif isinstance(value, dict) and (cleaned := _clean_json(value, MAX_JSON_DEPTH)) is not None:
            # Any other JSON value makes the strict 2.x SDK refuse the whole answer; `text/plain` shows it too.
            bundle[clean_text(mime)] = cleaned
    return bundle


def _text(value: Any) -> str:
    """Return text as text, lines joined, and anything else as JSON, which is what it came as."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "".join(value)
    return clean_text(value if isinstance(value, str) else json.dumps(_clean_json(value, MAX_JSON_DEPTH)))


def _clean_json(value: Any, depth: int) -> Any:
    if depth == 0:
        return None
    match value:
        case str():
            return clean_text(value)
        case float() if not math.isfinite(value):
            return None
        case int() if abs(value) >= 2**63:  # more than other languages' JSON holds
            return float(value) if abs(value) < 2**1000 else None
        case dict():
            return {clean_text(str(key)): _clean_json(item, depth - 1) for key, item in value.items()}
        case list():
            return [_clean_json(item, depth - 1) for item in value]
        case _:
            return value


@dataclass(slots=True)
class Piece:
    """A part of an output as it is kept; of a stream or an error its text, else its bundle."""

    type: OutputType
    size: int
    """Its bytes in UTF-8."""
    extra: int = PIECE_BYTES
    """What it costs in memory beside them."""
    text: io.StringIO | None = None
    bundle: dict[str, Any] | None = None

    def output(self) -> Output:
        """Return the piece as an output."""
        return Output(self.type, self.text.getvalue() if self.text else self.bundle or {})


class OutputBuffer:
    """An execution's outputs in order of arrival, within a limit: of more, the head and the tail are kept.

    Half of the limit is the head's, half the tail's, and memory and time stay bounded however much arrives.
    """

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._piece_bytes = min(MAX_PIECE_BYTES, max(limit // 16, 16))
        self._head: list[Piece] = []
        self._head_left = limit // 2
        self._tail: deque[Piece] = deque()
        self._tail_left = limit // 2
        self._conclusion: str | None = None
        self.left_out = 0
        """Bytes that arrived and were not kept."""
        self.has_error = False
        """Whether an `error` output arrived."""

    def add(self, output: Output) -> None:
        """Append an output, or as much of it as the limit allows; of several errors only the first is kept.

        One failure is one error, also where IPython stumbles over the exception that it shows.
        """
        if output.type is OutputType.ERROR:
            if self.has_error:
                return
            self.has_error = True
        if isinstance(output.data, dict):
            texts = (value if isinstance(value, str) else json.dumps(value) for value in output.data.values())
            size = sum(len(text.encode()) for text in texts)
            self._add_piece(Piece(output.type, size, extra=_weight(output.data), bundle=output.data))
            return
        for start in range(0, len(output.data), self._piece_bytes):
            self._add_text(output.type, output.data[start : start + self._piece_bytes])

    def leave_out(self, size: int) -> None:
        """Count bytes that never arrived, since the sandbox itself held them back."""
        self.left_out += size

    def conclude(self, text: str) -> None:
        """Say how the run ended, as seen from outside; what the kernel said of that end stands below it."""
        self._conclusion = text

    def outputs(self) -> tuple[Output, ...]:
        """Return what was kept, neighbouring pieces of one stream as one output."""
        kept = [piece.output() for piece in self._head]
        if self.left_out:
            before = kept[-1].type if kept and kept[-1].type in STREAMS.values() else OutputType.STDOUT
            note = f"\n[... {self.left_out} bytes of output left out: the limit is {self._limit} bytes ...]\n"
            kept.append(Output(before, note))
        kept.extend(piece.output() for piece in self._tail)
        merged = list(_merged(kept))
        if self._conclusion is not None:
            said = [str(output.data) for output in merged if output.type is OutputType.ERROR]
            merged = [output for output in merged if output.type is not OutputType.ERROR]
            merged.append(Output(OutputType.ERROR, "\n".join([self._conclusion, *said])))
        return tuple(merged)

    def _add_text(self, kind: OutputType, text: str) -> None:
        size = len(text.encode())
        last = self._tail[-1] if self._tail else self._head[-1] if self._head else None
        left = self._tail_left if self._tail else self._head_left
        if last and last.text and last.type is kind and last.size + size <= self._piece_bytes and size <= left:
            last.text.write(text)
            last.size += size
            self._spend(size)
        else:
            buffer = io.StringIO()
            buffer.write(text)
            self._add_piece(Piece(kind, size, text=buffer))

    def _add_piece(self, piece: Piece) -> None:
        cost = piece.size + piece.extra
        if not self._tail and cost <= self._head_left:
            self._head.append(piece)
            self._spend(cost)
            return
        self._head_left = 0
        self._tail.append(piece)
        self._spend(cost)
        # Whole pieces go, the oldest first: to shorten one each time would cost its length for every byte that comes.
        while self._tail_left < 0:
            dropped = self._tail.popleft()
            self._tail_left += dropped.size + dropped.extra
            self.left_out += dropped.size

    def _spend(self, cost: int) -> None:
        if self._tail:
            self._tail_left -= cost
        else:
            self._head_left -= cost


def _weight(value: Any) -> int:
    """Return what a bundle costs beside its texts: its names, and for each value what Python needs to hold it."""
    match value:
        case dict():
            return sum(len(name) + _weight(item) for name, item in value.items()) + VALUE_BYTES
        case list():
            return sum(_weight(item) for item in value) + VALUE_BYTES
        case _:
            return VALUE_BYTES


def _merged(outputs: Iterable[Output]) -> Iterator[Output]:
    for kind, group in itertools.groupby(outputs, key=lambda output: output.type):
        if kind in TEXTS:
            # Joined once: appending to a text piece by piece would cost the square of its length.
            yield Output(kind, "".join(str(output.data) for output in group))
        else:
            yield from group
