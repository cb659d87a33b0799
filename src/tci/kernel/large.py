"""From contents too large to be parsed to outputs: only what is shown is read, and displays stay JSON.

A content is up to the output limit in size. As Python's objects it could take twenty times that, and seconds in which
no other session is served; so nothing here makes an object for each of its parts, and all takes linear time.
"""

import codecs
import itertools
import re
from collections.abc import Callable
from typing import Any

import msgspec

from tci.kernel.messages import Frame, Message
from tci.kernel.outputs import (
    MAX_JSON_DEPTH,
    MAX_MIME_CHARACTERS,
    MAX_REPRESENTATIONS,
    STREAMS,
    Output,
    OutputType,
    is_json,
    to_error,
)

MAX_TEXT_BYTES = 1024**2
"""Largest stream or error. The launcher's pieces are smaller, also where a character takes six bytes."""

CHECK_BYTES = 64 * 1024
"""How much text is looked at at once where all of it would be too much."""

MAX_BRACKETS = 2 * 1024**2
"""Most brackets of a JSON object that is passed on: to find how deep they are takes time for each."""

# Possessive (`++`): Python's regular expressions would else keep a way back for each repetition, in megabytes.
SURROGATE = re.compile(rb"(?<!\\)(?:\\\\)*+\\u[dD][89a-fA-F]")
"""Half of a character outside the basic plane, escaped in JSON. The launcher writes whole characters."""

JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)

HUGE_NUMBER = re.compile(rb"[0-9]{300}|[eE]\+?0*+(?:[3-9][0-9]{2}|[0-9]{4})")
"""A number that clients' parsers refuse or call infinite."""

NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))


class Stream(msgspec.Struct):
    """The content of a `stream` message."""

    name: str
    text: str


class Error(msgspec.Struct):
    """The content of an `error` message."""

    traceback: list[str]


class Mime(str):
    """A media type; a class of its own, so that msgspec hands each to `_counted` before it reads on."""

    __slots__ = ()


class Display(msgspec.Struct):
    """The content of a display; its representations stay JSON."""

    data: dict[Mime, msgspec.Raw]


STREAM, ERROR = msgspec.json.Decoder(Stream), msgspec.json.Decoder(Error)


def large_output(message: Message) -> Output | None:
    """Translate a message whose content was not parsed, or return None if it shows nothing or can't be shown."""
    content = message.large or b""
    try:
        match message.type:
            case "stream" if len(content) <= MAX_TEXT_BYTES:
                stream = STREAM.decode(content)
                return Output(STREAMS[stream.name], stream.text) if stream.name in STREAMS and stream.text else None
            case "error" if len(content) <= MAX_TEXT_BYTES:
                return to_error({"traceback": ERROR.decode(content).traceback})
            case ("display_data" | "execute_result") as kind:
                return _display(OutputType(kind), content)
            case _:
                return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _display(kind: OutputType, content: Frame) -> Output | None:
    data = msgspec.json.decode(content, type=Display, dec_hook=_counted()).data
    short = {mime: value for mime, value in data.items() if len(mime) <= MAX_MIME_CHARACTERS}
    bundle = {str(mime): value for mime, value in short.items() if _is_sound(mime, value)}
    return Output(kind, bundle) if bundle else None


def _counted() -> Callable[[type, Any], Any]:
    """Return a hook that ends reading at one media type too many: msgspec's own max_length looks once all are there."""
    count = itertools.count()

    def hook(kind: type, value: Any) -> Any:
        if next(count) == MAX_REPRESENTATIONS:
            raise ValueError("too many representations")
        return kind(value)

    return hook


def _is_sound(mime: str, value: msgspec.Raw) -> bool:
    """Whether JSON of right syntax is also what a client's parser takes: UTF-8, whole characters, not too deep."""
    view = memoryview(value)
    if view[0] != ord("{" if is_json(mime) else '"') or SURROGATE.search(view):
        return False
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(view), CHECK_BYTES):
            decoder.decode(view[start : start + CHECK_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return not is_json(mime) or _is_plain(JSON_STRING.sub(b"", view))


def _is_plain(structure: bytes) -> bool:
    """Whether JSON without its strings is nowhere too deep, and has no number that is too large."""
    if HUGE_NUMBER.search(structure):
        return False
    brackets = structure.translate(None, NO_BRACKET)
    if len(brackets) > MAX_BRACKETS:
        return False
    for _ in range(MAX_JSON_DEPTH):  # each round takes the innermost pairs away
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return not brackets
