"""The streams of the session, within a budget: whole characters, in order, and no way to close them."""

import codecs
import fcntl
import os
import select
import struct
import termios
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from ipykernel.iostream import OutStream

PIECE_CHARACTERS = 128 * 1024
"""Longest text of one message, and what a stream holds before it publishes: below what the service parses, also where
each character becomes six bytes of JSON."""


class Budget:
    """What one run may publish: beyond it, text is held back but for its end, and displays are dropped.

    The service has the same limit for itself, since code can undo this one. This one spares both sides the
    flood, and keeps messages below the size at which ZeroMQ would break the connection.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = limit
        self.left_out = 0
        self.held: deque[tuple[Any, Any, str]] = deque()
        """What was held back, in order: stream, parent header, text."""
        self._held_size = 0

    def renew(self) -> None:
        """Begin a run."""
        self.left, self.left_out, self._held_size = self.limit, 0, 0
        self.held.clear()

    def hold(self, stream: Any, parent: Any, piece: str) -> None:
        """Keep text for the end of the run, and drop the oldest if that is too much."""
        self.held.append((stream, parent, piece))
        self._held_size += size_of(piece)
        while self._held_size > self.limit // 2:
            size = size_of(self.held.popleft()[2])
            self._held_size -= size
            self.left_out += size

    def take(self, size: int) -> bool:
        """Return whether so many bytes may still be published, and count them."""
        fits = size <= self.left
        self.left -= size if fits else self.left
        return fits


class Stream(OutStream):
    """ipykernel's stream, with a budget, whole characters from descriptors, and no way to close it."""

    budget: Budget
    last_written: ClassVar[Any] = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._pipe_lock = threading.RLock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = 0
        self._drainer = 0
        self._piece_characters = min(PIECE_CHARACTERS, max(self.budget.limit // 8, 1024))
        super().__init__(*arguments, **options)
        Stream.last_written = self

    def close(self) -> None:
        """Stay open: code that closes its stdout must not close that of the calls that come after."""
        self.flush()

    def write(self, string: str) -> int | None:
        if self._drainer != threading.get_ident():  # what a program wrote to the descriptor before comes before
            self.drain()
        if Stream.last_written is not self:  # what was written to the other stream before is published before
            Stream.last_written.flush()
            Stream.last_written = self
        for start in range(0, len(string), self._piece_characters):
            super().write(string[start : start + self._piece_characters])
            self._waiting += min(self._piece_characters, len(string) - start)
            if self._waiting > self._piece_characters:
                self.flush()  # rather than let the buffer grow until the next regular flush
        return len(string)

    def _watch_pipe_fd(self) -> None:
        """Pass on what programs and libraries write to descriptor 1 or 2."""
        while True:
            select.select([self._fid], [], [])
            self.drain()

    def drain(self) -> None:
        """Return once all that was written to the descriptor is in the stream."""
        # Under one lock with the watching thread: so nothing is between the pipe and the stream unseen.
        with self._pipe_lock:
            while struct.unpack("i", fcntl.ioctl(self._fid, termios.FIONREAD, b"\0" * 4))[0]:
                data = os.read(self._fid, 65536)
                self._drainer = threading.get_ident()
                try:
                    self.write(self._decoder.decode(data))
                finally:
                    self._drainer = 0

    def _flush_buffers(self) -> Iterator[tuple[Any, str]]:
        self._waiting = 0
        for parent, text in super()._flush_buffers():
            for start in range(0, len(text), self._piece_characters):
                piece = text[start : start + self._piece_characters]
                if self.budget.take(size_of(piece)):
                    yield parent, piece
                else:
                    self.budget.hold(self, parent, piece)


def release(budget: Budget, streams: Iterable[Any]) -> None:
    """Publish what the streams still hold, what was held back, and how much was left out before that."""
    streams = list(streams)
    for stream in streams:
        stream.drain()
        stream.flush()
    held = list(budget.held) or ([(streams[0], streams[0].parent_header, "")] if budget.left_out else [])
    left_out = budget.left_out
    budget.renew()
    for stream, parent, piece in held:
        content, metadata = {"name": stream.name, "text": piece}, {"tci_left_out": left_out}
        stream.session.send(stream.pub_thread, "stream", content, parent=parent, ident=stream.topic, metadata=metadata)
        left_out = 0


def size_of(text: str) -> int:
    """Return a text's bytes in UTF-8."""
    return len(text.encode("utf-8", "surrogatepass"))
