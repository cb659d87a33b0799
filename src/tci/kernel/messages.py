"""Jupyter's wire format: signed frames to messages and back.

The format is https://jupyter-client.readthedocs.io/en/stable/messaging.html#the-wire-protocol, version 5.4.
jupyter_client writes the same frames; it is left out of the hot path because a thread per channel and its
own JSON cost half of an execution's time.
"""

import datetime as dt
import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

DELIMITER = b"<IDS|MSG>"

VERSION = "5.4"

MAX_PARSED_BYTES = 64 * 1024
"""Largest content that is parsed whole: JSON takes up to twenty times its size once it is objects, and the time that
each of them needs is taken from all other sessions. Of a larger one only what is shown is read (`tci.kernel.large`)."""

MAX_HEADER_BYTES = 64 * 1024

Frame = bytes | bytearray


@dataclass(frozen=True, slots=True)
class Message:
    """A message that carried a valid signature; its content is still whatever code in the kernel wrote."""

    type: str
    parent_id: str
    content: dict[str, Any]
    left_out: int = 0
    """Bytes that the launcher held back, since no answer could have carried them."""
    large: Frame | None = None
    """The content as JSON where it is too large to be parsed; `content` is empty then."""


class Wire:
    """Signs what is sent to one kernel, and reads what comes from it."""

    def __init__(self, key: str) -> None:
        self._mac = hmac.new(key.encode(), digestmod=hashlib.sha256)
        self._session = secrets.token_hex(8)

    def request(
        self, message_type: str, content: dict[str, Any], buffers: Sequence[bytes] = ()
    ) -> tuple[str, list[bytes]]:
        """Return a new message's id and its frames."""
        message_id = secrets.token_hex(16)
        header = {
            "msg_id": message_id,
            "msg_type": message_type,
            "session": self._session,
            "username": "tci",
            "date": dt.datetime.now(dt.UTC),
            "version": VERSION,
        }
        parts = [orjson.dumps(header), b"{}", b"{}", _dump(content)]
        return message_id, [DELIMITER, self._sign(parts), *parts, *buffers]

    def read(self, frames: Sequence[Frame]) -> Message | None:
        """Return the message, or None where frames are not a message signed with this kernel's key.

        Whoever is in the kernel has the key, so a valid signature proves only that no other process wrote it.
        """
        try:
            start = frames.index(DELIMITER) + 1
            signature, *parts = frames[start : start + 5]
            header, parent, metadata, content = parts
            if max(len(header), len(parent)) > MAX_HEADER_BYTES:
                return None
            if not hmac.compare_digest(signature, self._sign(parts)):
                return None
            message_type = orjson.loads(header)["msg_type"]
            parent_id = orjson.loads(parent).get("msg_id", "")
            large = content if len(content) > MAX_PARSED_BYTES else None
            body = {} if large else _load(content)
        # Any shape can come: a list where an object should be, numbers out of range, depth without end.
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        if not (isinstance(message_type, str) and isinstance(parent_id, str) and isinstance(body, dict)):
            return None
        left_out = _left_out(metadata)
        return Message(type=message_type, parent_id=parent_id, content=body, left_out=left_out, large=large)

    def _sign(self, parts: Sequence[Frame]) -> bytes:
        mac = self._mac.copy()
        for part in parts:
            mac.update(part)
        return mac.hexdigest().encode()


def buffers_of(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return what a message carries besides its four parts; no signature covers it."""
    return frames[frames.index(DELIMITER) + 6 :]


def _load(content: Frame) -> Any:
    try:
        return orjson.loads(content)
    except ValueError:  # NaN, infinity or a lone surrogate, all of which Python's own JSON lets through
        return json.loads(content.decode("utf-8", "surrogatepass"))


def _left_out(metadata: Frame) -> int:
    if metadata == b"{}" or len(metadata) > MAX_HEADER_BYTES:
        return 0
    try:
        match orjson.loads(metadata):
            case {"tci_left_out": int(size)} if 0 <= size < 2**63:
                return size
            case _:
                return 0
    except ValueError:
        return 0


def _dump(content: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(content)
    except TypeError:  # a lone surrogate, which JSON from a caller can hold: let the kernel see it escaped
        return json.dumps(content).encode()
