"""Keeps answers to what agents have room for: the SDK's own client takes no answer of more than 1 MiB."""

import json

from mcp.types import ContentBlock, ImageContent, TextContent

ANSWER_BYTES = 768 * 1024
"""Most that an answer's content weighs, as JSON."""

MAX_BLOCKS = 1000
"""Most outputs of an answer."""

LAST_BYTES = 64 * 1024
"""What images leave to the texts that follow; a text leaves half."""

NOTE_BYTES = 100


def weight(text: str) -> int:
    """Return what a text weighs in an answer, where JSON may need six bytes for one."""
    return len(json.dumps(text))


def cut(text: str, limit: int) -> str:
    """Return a text that weighs no more than the limit: of a longer one the head and the tail."""
    weighs = weight(text)
    if weighs <= limit:
        return text
    half = max(0, limit - NOTE_BYTES) * len(text) // weighs // 2
    while True:
        note = f"\n[... {len(text) - 2 * half} characters left out ...]\n"
        shorter = text[:half] + note + text[len(text) - half :]
        if not half or weight(shorter) <= limit:
            return shorter
        half //= 2


def beginning(text: str, limit: int) -> str:
    """Return as much of a text's beginning as weighs no more than the limit."""
    while (weighs := weight(text)) > limit:
        text = text[: len(text) * limit // weighs - 1]
    return text


class Room:
    """What is left of an answer. No block takes all of it, so that the last one, an error say, is seen too."""

    def __init__(self) -> None:
        self._left = ANSWER_BYTES

    def text(self, text: str) -> ContentBlock:
        """Return a text, or its head and tail."""
        fitting = cut(text, self._left // 2)
        self._left -= weight(fitting)
        return TextContent(text=fitting)

    def image(self, data: str, mime: str) -> ContentBlock:
        """Return an image, given in base64, or a word about it."""
        if len(data) > self._left - LAST_BYTES:
            size = len(data) * 3 // 4 - data[-2:].count("=")
            return self.text(f"[{mime}, {size} bytes: too large to be shown here]")
        self._left -= len(data)
        return ImageContent(data=data, mime_type=mime)
