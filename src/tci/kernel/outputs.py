"""From kernel messages to outputs: a pure translation."""

import itertools
import json
import math
import re
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

MAX_REPRESENTATIONS = 64
"""Most media types of one display that are passed on; a display of many libraries has ten."""

MAX_MIME_CHARACTERS = 255
"""Longest media type that is passed on; RFC 6838 allows 127 for each of its two parts."""

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


def is_json(mime: str) -> bool:
    """Whether a media type's representation is a JSON object, not text."""
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
    for mime, value in itertools.islice(data.items(), MAX_REPRESENTATIONS):
        if len(mime) > MAX_MIME_CHARACTERS:
            continue
        if not is_json(mime):
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
