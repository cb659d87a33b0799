"""From kernel messages to outputs: a pure translation, and a buffer that keeps an execution's outputs."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
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


STREAMS = {"stdout": OutputType.STDOUT, "stderr": OutputType.STDERR}


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
            return Output(OutputType(kind), _bundle(data))
        case "error", _:
            return to_error(content)
        case _:
            return None


def to_error(content: dict[str, Any]) -> Output:
    """Translate the content of an `error` message or of a failed reply: the traceback as plain text."""
    traceback = content.get("traceback")
    if isinstance(traceback, list) and traceback:
        text = "\n".join(str(line) for line in traceback)
    else:
        text = f"{content.get('ename', 'Error')}: {content.get('evalue', '')}"
    return Output(OutputType.ERROR, ANSI.sub("", clean_text(text)))


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
        if not (mime == "application/json" or mime.endswith("+json")):
            bundle[clean_text(mime)] = _text(value)
        elif isinstance(value, dict):
            # Any other JSON value makes the strict 2.x SDK refuse the whole answer; `text/plain` shows it too.
            bundle[clean_text(mime)] = _clean_json(value)
    return bundle


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = "".join(str(line) for line in value)
    return clean_text(value if isinstance(value, str) else str(value))


def _clean_json(value: Any) -> Any:
    match value:
        case str():
            return clean_text(value)
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {clean_text(str(key)): _clean_json(item) for key, item in value.items()}
        case list():
            return [_clean_json(item) for item in value]
        case _:
            return value


class OutputBuffer:
    """An execution's outputs in order of arrival; neighbouring chunks of one stream become one output."""

    def __init__(self) -> None:
        self._outputs: list[Output] = []
        self._chunks: list[str] = []

    def add(self, output: Output) -> None:
        """Append an output."""
        if isinstance(output.data, str) and output.type in STREAMS.values():
            if not (self._outputs and self._outputs[-1].type is output.type):
                self._close_stream()
                self._outputs.append(replace(output, data=""))
            # Joined once, at the end: appending to the text each time would cost the square of its length.
            self._chunks.append(output.data)
        else:
            self._close_stream()
            self._outputs.append(output)

    def outputs(self) -> tuple[Output, ...]:
        """Return what was added."""
        self._close_stream()
        return tuple(self._outputs)

    @property
    def has_error(self) -> bool:
        """Whether an `error` output is among them."""
        return any(output.type is OutputType.ERROR for output in self._outputs)

    def __iter__(self) -> Iterator[Output]:
        return iter(self.outputs())

    def _close_stream(self) -> None:
        if self._chunks:
            last = self._outputs[-1]
            self._outputs[-1] = replace(last, data=str(last.data) + "".join(self._chunks))
            self._chunks.clear()
