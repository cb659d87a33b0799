"""One connection to a kernel's socket in ZMTP 3.0, the protocol under ZeroMQ (https://rfc.zeromq.org/spec/23/).

libzmq itself is not used on this side: it limits a frame, not a message, and reads ahead on a thread of its own.
Code in a kernel could so fill the service's memory, with one message of parts without end, or with queues of large
ones. Here a message has a limit as a whole, and nothing is read that was not asked for: the rest waits in the
kernel's process, inside the sandbox's memory limit.
"""

import asyncio
import socket
import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Self

MORE, LONG, COMMAND = 1, 2, 4
"""Bits of a frame's first byte."""

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""Signature, version 3.0, no security mechanism, not a server, filler: 64 bytes."""

BUFFER_BYTES = 16 * 1024

MAX_FRAMES = 64
"""Most frames of a message; the launcher's have seven. So a message of empty frames has an end too, and soon."""

MAX_COMMANDS = 16
"""Most commands of a connection: READY, and words between two libraries, of which none is needed."""

MAX_COMMAND_BYTES = 1024

READS_IN_A_ROW = 64
"""Reads after which other work gets its turn, however fast a kernel sends."""

CONNECT_SECONDS = 0.01
"""How soon a socket whose queue of connections is full is tried again."""

Frame = bytes | bytearray


class SocketType(StrEnum):
    """The ends that are played here."""

    DEALER = "DEALER"
    SUB = "SUB"


class ConnectionLost(Exception):
    """The kernel closed the connection, or what it sends is no ZMTP."""


class MessageTooLarge(Exception):
    """The kernel began a message larger than its limit; the connection is of no use any more."""


class Connection:
    """A connection that reads only while `receive` is awaited. A cancelled `receive` loses nothing."""

    def __init__(self, opened: socket.socket, *, max_message_bytes: int) -> None:
        self._socket = opened
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray(BUFFER_BYTES)
        self._start = self._end = 0
        self._frames: list[Frame] = []
        self._left = max_message_bytes
        self._frame: bytearray | None = None
        """The frame that is being read; its last `_missing` bytes have not come yet."""
        self._missing = 0
        self._flags = 0
        self._reads = 0
        self._commands = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._reader: asyncio.Future[None] | None = None
        self._is_watched = False
        self.has_waited = False
        """Whether others had their turn while the last message was waited for."""

    @classmethod
    async def open(cls, path: str, kind: SocketType, *, max_message_bytes: int, topics: Sequence[bytes] = ()) -> Self:
        """Connect, shake hands and subscribe. Waits for ever: set a deadline. Raises ConnectionLost."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        connection = cls(opened, max_message_bytes=max_message_bytes)
        try:
            await _connect(opened, path)
            await connection._greet()  # libzmq drops who goes on before its own greeting has been sent
            ready = b"\x05READY" + _property(b"Socket-Type", kind.encode()) + _property(b"Identity", b"")
            subscriptions = [_frame(0, b"\x01" + topic) for topic in topics]
            await connection._send(b"".join([_frame(COMMAND, ready), *subscriptions]))
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def is_open(self) -> bool:
        """Whether neither side has closed the connection, as far as is known here without waiting."""
        if self._socket.fileno() < 0:
            return False
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Drop the connection; who waits for it is cancelled."""
        if self._socket.fileno() < 0:
            return
        # Before the descriptor's number belongs to another socket, whose events the loop would then not see.
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        for waiter in self._waiters:
            waiter.cancel()
        self._socket.close()

    async def send(self, frames: Sequence[Frame]) -> None:
        """Send one message; raises ConnectionLost."""
        last = len(frames) - 1
        await self._send(b"".join(_frame(MORE if number < last else 0, frame) for number, frame in enumerate(frames)))

    async def receive(self) -> list[Frame]:
        """Return the next message's frames. Waits for ever: set a deadline.

        Raises MessageTooLarge and ConnectionLost.
        """
        self.has_waited = False
        while not self._has_message():
            await self._read()
        frames, self._frames, self._left = self._frames, [], self._max_message_bytes
        return frames

    async def _greet(self) -> None:
        await self._send(GREETING)
        while self._end - self._start < len(GREETING):
            await self._read()
        greeting = self._take(len(GREETING))
        if greeting[0] != GREETING[0] or greeting[9] & 1 == 0 or greeting[10] < GREETING[10]:
            raise ConnectionLost

    def _has_message(self) -> bool:
        """Go on with what is in the buffer; return whether a message is whole."""
        while True:
            frame = self._frame or self._begin_frame()
            if frame is None:
                return False
            if self._missing:
                piece = self._take(min(self._missing, self._end - self._start))
                filled = len(frame) - self._missing
                frame[filled : filled + len(piece)] = piece
                self._missing -= len(piece)
            if self._missing:
                self._frame = frame
                return False
            self._frame = None
            if self._flags & COMMAND:
                continue  # nothing of it matters here
            self._frames.append(frame)
            if not self._flags & MORE:
                return True

    def _begin_frame(self) -> bytearray | None:
        """Read a frame's flags and size if they are in the buffer; return the space for it."""
        have = self._end - self._start
        head = 9 if have and self._buffer[self._start] & LONG else 2
        if have < head:
            return None
        flags, *size = self._take(head)
        length = int.from_bytes(size, "big")
        if flags & COMMAND:
            self._commands += 1
            if self._commands > MAX_COMMANDS or length > MAX_COMMAND_BYTES:
                raise ConnectionLost
        else:
            self._left -= length
            if self._left < 0 or len(self._frames) == MAX_FRAMES:
                raise MessageTooLarge
        self._flags, self._missing = flags, length
        return bytearray(length)

    def _take(self, size: int) -> bytes:
        start = self._start
        self._start += size
        taken = bytes(memoryview(self._buffer)[start : self._start])
        if self._start == self._end:
            self._start = self._end = 0
        return taken

    async def _read(self) -> None:
        """Read once: into the frame that is being read, or into the buffer for what comes next."""
        if self._missing >= BUFFER_BYTES and self._frame is not None:
            count = await self._receive_into(memoryview(self._frame)[-self._missing :])
            self._missing -= count
            return
        if self._start:  # the head of a frame that is not whole
            rest = self._take(self._end - self._start)
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        self._end += await self._receive_into(memoryview(self._buffer)[self._end :])

    async def _receive_into(self, space: memoryview) -> int:
        self._reads += 1
        if self._reads % READS_IN_A_ROW == 0:
            await asyncio.sleep(0)
        while True:
            try:
                # Read here, not by the loop for a future: a future that is cancelled at the wrong moment loses bytes.
                count = self._socket.recv_into(space)
            except BlockingIOError:
                await self._readable()
            except OSError as error:
                raise ConnectionLost from error
            else:
                if count == 0:
                    raise ConnectionLost
                return count

    async def _readable(self) -> None:
        # The socket stays watched from one wait to the next: a run has ten, and each change costs a call of the system.
        loop = asyncio.get_running_loop()
        if not self._is_watched:
            loop.add_reader(self._socket, self._on_readable)
            self._is_watched = True
        self.has_waited = True
        self._reader = loop.create_future()
        self._waiters.add(self._reader)
        try:
            await self._reader
        finally:
            self._waiters.discard(self._reader)

    def _on_readable(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        else:  # nobody waits, and the loop would tell of it again and again
            asyncio.get_running_loop().remove_reader(self._socket)
            self._is_watched = False

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiters.add(waiter)
        loop.add_writer(self._socket, _resolve, waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if self._socket.fileno() >= 0:
                loop.remove_writer(self._socket)

    async def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await self._writable()
            except OSError as error:
                raise ConnectionLost from error


async def _connect(opened: socket.socket, path: str) -> None:
    while True:
        try:
            opened.connect(path)
        except BlockingIOError:  # a UNIX socket's queue is full: this says so, and does not go on by itself
            await asyncio.sleep(CONNECT_SECONDS)
        except OSError as error:
            raise ConnectionLost from error
        else:
            return


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _frame(flags: int, body: Frame) -> bytes:
    if len(body) < 256:  # noqa: PLR2004 (what one byte holds)
        return bytes([flags, len(body)]) + body
    return struct.pack(">BQ", flags | LONG, len(body)) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
