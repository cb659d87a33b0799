"""From kernel messages to outputs: a pure translation."""

import codecs
import json
import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

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

MAX_MIME_CHARACTERS = 255
"""Longest media type that is passed on; RFC 6838 allows 127 for each of its two parts."""

CHECK_BYTES = 64 * 1024
"""How much text is looked at at once where all of it would be too much."""

SURROGATE = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")
"""Half of a character outside the basic plane, escaped in JSON. The launcher writes whole characters."""

NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))

JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)

STREAMS = {"stdout": OutputType.STDOUT, "stderr": OutputType.STDERR}

TEXTS = frozenset({OutputType.STDOUT, OutputType.STDERR, OutputType.ERROR})
"""The types whose neighbouring pieces are one output; of errors there is one at most."""


@dataclass(frozen=True, slots=True)
class Output:
    """One item of `outputs`, the same inside as on the wire.

    `data` is text for streams and errors, a MIME bundle (media type to representation) for displays; of a large
    display the representations are JSON that was not parsed (msgspec.Raw).
    """

    type: OutputType
    data: str | dict[str, Any]


class LargeContent(msgspec.Struct):
    """The content of a display that is too large to be parsed: its representations stay JSON."""

    data: dict[str, msgspec.Raw]


LARGE_CONTENT: msgspec.json.Decoder[LargeContent] = msgspec.json.Decoder(LargeContent)


def to_output(message: Message) -> Output | None:
    """Translate one message, or return None if it shows nothing or is not what it should be."""
    content = message.content
    if message.large is not None:
        return _large_display(message.type, message.large)
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


def _large_display(kind: str, content: bytes | bytearray) -> Output | None:
    if kind not in {"display_data", "execute_result"}:
        return None  # the launcher sends nothing else in one piece that is so large
    try:
        data = LARGE_CONTENT.decode(content).data
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    short = {mime: value for mime, value in data.items() if len(mime) <= MAX_MIME_CHARACTERS}
    bundle = {mime: value for mime, value in short.items() if _is_sound(mime, value)}
    return Output(OutputType(kind), bundle) if bundle else None


def _is_sound(mime: str, value: msgspec.Raw) -> bool:
    """Whether JSON of right syntax is also what a client's parser takes: UTF-8, whole characters, not too deep."""
    view = memoryview(value)
    if view[0] != ord("{" if _is_json(mime) else '"') or SURROGATE.search(view):
        return False
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(view), CHECK_BYTES):
            decoder.decode(view[start : start + CHECK_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return not _is_json(mime) or _is_shallow(view)


def _is_shallow(view: memoryview) -> bool:
    brackets = JSON_STRING.sub(b"", view).translate(None, NO_BRACKET)
    for _ in range(MAX_JSON_DEPTH):  # each round takes the innermost pairs away
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return not brackets


def _is_json(mime: str) -> bool:
    return mime == "application/json" or mime.endswith("+json")


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
        if not _is_json(mime):
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
