"""Kernels that lie, each a small class named for what it does, on real sockets and in the real wire format.

A kernel runs in a thread with a ZeroMQ context of its own. Those whose name begins with Raw speak ZMTP themselves,
as code in a sandbox can that takes the sockets' descriptors: no library then keeps it from saying what it wants.
"""

import contextlib
import hashlib
import hmac
import json
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import zmq
from typing_extensions import override

DELIMITER = b"<IDS|MSG>"
STOP_SECONDS = 10
POLL_MILLISECONDS = 5

FORGED = "FORGED"
"""Text that belongs to another request: no answer may ever carry it."""

MIB = 1024**2


def as_bytes(part: Any) -> bytes:
    """Return bytes as they are and anything else as JSON."""
    return part if isinstance(part, bytes) else json.dumps(part).encode()


def signed(key: str, header: Any, parent: Any, content: Any, metadata: Any = b"{}") -> list[bytes]:
    """Return the frames of a message, from the delimiter on."""
    parts = [as_bytes(part) for part in (header, parent, metadata, content)]
    signature = hmac.new(key.encode(), b"".join(parts), hashlib.sha256).hexdigest().encode()
    return [DELIMITER, signature, *parts]


def header_of(message_type: Any) -> dict[str, Any]:
    """Return the header of a new message."""
    return {
        "msg_id": secrets.token_hex(16),
        "msg_type": message_type,
        "session": "s",
        "username": "u",
        "date": "2026-01-01T00:00:00Z",
        "version": "5.4",
    }


class HonestKernel:
    """Welcomes, says busy, prints the code that it was sent, says idle, replies. The others differ in one thing."""

    def __init__(self, directory: Path, key: str) -> None:
        self.key = key
        self.requests = 0
        self.is_stopping = threading.Event()
        self.failure: BaseException | None = None
        self._directory = directory
        self._thread = threading.Thread(target=self._run, name=type(self).__name__)

    def __enter__(self) -> Self:
        self._context = zmq.Context()
        self.open_sockets()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_stopping.set()
        self._thread.join(STOP_SECONDS)
        assert not self._thread.is_alive(), "the fake kernel did not stop"
        self._context.destroy(linger=0)
        if self.failure is not None:
            raise self.failure

    # What a kernel does, to be replaced.

    def on_subscription(self, topic: bytes) -> None:
        self.welcome(topic)

    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        self.busy(parent)
        self.say(parent, code)
        self.idle(parent)
        self.reply(identity, parent)

    def on_control(self, identity: bytes, parent: dict[str, Any]) -> None:
        kind = str(parent["msg_type"]).replace("request", "reply")
        self.send(self.control, [identity], kind, parent, {"status": "ok"})

    def on_time(self) -> None:
        """Do what needs no request."""

    # What it says.

    def send(  # noqa: PLR0917 (channel, envelope, and the four parts of a message in their order)
        self, to: zmq.Socket[bytes], before: list[bytes], kind: Any, parent: Any, content: Any, metadata: Any = b"{}"
    ) -> None:
        self.send_frames(to, [*before, *signed(self.key, header_of(kind), parent, content, metadata)])

    def send_frames(self, to: zmq.Socket[bytes], frames: list[bytes]) -> None:
        """Send as soon as there is room, unless the test is over."""
        while not self.is_stopping.is_set():
            try:
                to.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                time.sleep(0.0005)
            else:
                return

    def publish(self, kind: Any, parent: Any, content: Any, metadata: Any = b"{}") -> None:
        self.send(self.iopub, [b"topic"], kind, parent, content, metadata)

    def welcome(self, topic: bytes) -> None:
        self.send(self.iopub, [topic], "iopub_welcome", {}, {"subscription": topic.decode()})

    def busy(self, parent: Any) -> None:
        self.publish("status", parent, {"execution_state": "busy"})

    def idle(self, parent: Any) -> None:
        self.publish("status", parent, {"execution_state": "idle"})

    def say(self, parent: Any, text: str) -> None:
        self.publish("stream", parent, {"name": "stdout", "text": text})

    def reply(self, identity: bytes, parent: Any, content: Any = None) -> None:
        self.send(self.shell, [identity], "execute_reply", parent, {"status": "ok"} if content is None else content)

    # Its sockets.

    def open_sockets(self) -> None:
        self.shell = self._bind(zmq.ROUTER, "shell")
        self.control = self._bind(zmq.ROUTER, "control")
        self.iopub = self._bind(zmq.XPUB, "iopub")

    def close_sockets(self) -> None:
        for opened in (self.shell, self.control, self.iopub):
            opened.close(linger=0)

    def _bind(self, kind: int, channel: str) -> zmq.Socket[bytes]:
        opened = self._context.socket(kind)
        opened.linger = 0
        opened.sndhwm = 4
        if kind == zmq.XPUB:
            opened.setsockopt(zmq.XPUB_VERBOSE, 1)
            opened.setsockopt(zmq.XPUB_NODROP, 1)  # a flood is kept back, not thrown away
        opened.bind(f"ipc://{self._directory}/{channel}")
        return opened

    def _run(self) -> None:
        try:
            while not self.is_stopping.is_set():
                self._serve_once()
        except BaseException as failure:  # noqa: BLE001 (shown when the test leaves the kernel)
            self.failure = failure

    def _serve_once(self) -> None:
        self.on_time()
        for opened in (self.iopub, self.control, self.shell):
            if opened.closed or not opened.poll(POLL_MILLISECONDS):
                continue
            frames = opened.recv_multipart()
            if opened is self.iopub:
                if frames[0][:1] == b"\x01":
                    self.on_subscription(frames[0][1:])
                continue
            identity, delimiter, signature, *parts = frames
            assert delimiter == DELIMITER
            assert signature == signed(self.key, *parts[:2], parts[3], parts[2])[1]
            parent = json.loads(parts[0])
            if opened is self.control:
                self.on_control(identity, parent)
            else:
                self.requests += 1
                self.on_execute(identity, parent, json.loads(parts[3])["code"])


# Who speaks at the wrong moment.


class FakeIdleKernel(HonestKernel):
    """Says idle first, and only then prints and replies: its own answer is short, no more."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        self.idle(parent)
        super().on_execute(identity, parent, code)


class FakeReplyKernel(HonestKernel):
    """Replies first, and again at the end."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        self.reply(identity, parent)
        super().on_execute(identity, parent, code)


class IdleWithoutReplyKernel(HonestKernel):
    """Says idle and never replies."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        self.idle(parent)


class ReplyWithoutIdleKernel(HonestKernel):
    """Replies and never says idle."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        self.reply(identity, parent)


class StallingKernel(HonestKernel):
    """Replies, has its client's process stand still for some time, and says the rest meanwhile."""

    def __init__(self, directory: Path, key: str, stall: Callable[[], None]) -> None:
        super().__init__(directory, key)
        self._stall = stall

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        self.busy(parent)
        self.reply(identity, parent)
        time.sleep(0.05)  # until the reply was read
        self._stall()
        time.sleep(0.05)  # until its process stands still
        self.say(parent, code)
        self.idle(parent)


class SilentKernel(HonestKernel):
    """Takes connections and says nothing at all."""

    @override
    def on_subscription(self, topic: bytes) -> None:
        pass

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        pass

    @override
    def on_control(self, identity: bytes, parent: dict[str, Any]) -> None:
        pass


class SilentAfterWelcomeKernel(SilentKernel):
    """Welcomes and says nothing more."""

    @override
    def on_subscription(self, topic: bytes) -> None:
        self.welcome(topic)


class FakeWelcomeKernel(SilentKernel):
    """Welcomes subscriptions that nobody made."""

    @override
    def on_subscription(self, topic: bytes) -> None:
        for forged in ("", "x", topic.decode()[:-1], None, 5, [topic.decode()], {}):
            self.send(self.iopub, [b""], "iopub_welcome", {}, {"subscription": forged})


class TwoWelcomesKernel(HonestKernel):
    """Welcomes a second time while it runs."""

    topic = b""

    @override
    def on_subscription(self, topic: bytes) -> None:
        self.topic = topic or self.topic
        self.welcome(topic)

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        self.welcome(self.topic)
        super().on_execute(identity, parent, code)


class ClosingKernel(HonestKernel):
    """Closes its sockets when it is asked to run something."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        self.busy(parent)
        self.close_sockets()


class ReopeningKernel(ClosingKernel):
    """Closes its sockets and opens them again: what it said between is lost."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        super().on_execute(identity, parent, code)
        self.open_sockets()


# Who speaks for another request.


class ReplyForAnotherRequestKernel(HonestKernel):
    """Prints, ends and replies for requests that nobody made, then for the right one."""

    others: ClassVar[list[Any]] = [{"msg_id": "0" * 32}, {"msg_id": ""}, {}]

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        for other in [*self.others, {"msg_id": str(parent["msg_id"]).upper()}, {"msg_id": [parent["msg_id"]]}]:
            self.say(other, FORGED)
            self.publish("error", other, {"ename": FORGED})
            self.idle(other)
            self.reply(identity, other, {"status": "error", "ename": FORGED})
        super().on_execute(identity, parent, code)


class ReplyForEarlierRequestKernel(HonestKernel):
    """Answers what it answered before once more, before it answers what it was asked."""

    def __init__(self, directory: Path, key: str) -> None:
        super().__init__(directory, key)
        self.earlier: list[dict[str, Any]] = []

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        for other in self.earlier:
            super().on_execute(identity, other, FORGED)
            self.reply(identity, other, {"status": "error", "ename": FORGED})
        self.earlier.append(parent)
        super().on_execute(identity, parent, code)


class TwiceKernel(HonestKernel):
    """Says everything twice: what is left over meets the next request."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        super().on_execute(identity, parent, code)
        super().on_execute(identity, parent, FORGED)


class UnaskedReplyKernel(HonestKernel):
    """Replies and says idle all the time, for nobody."""

    @override
    def on_subscription(self, topic: bytes) -> None:
        self.idle({})
        self.welcome(topic)
        self.idle({})

    @override
    def on_time(self) -> None:
        self.idle({"msg_id": secrets.token_hex(16)})


# Who signs wrongly, or sends what is no message.


class WrongHmacKernel(HonestKernel):
    """Signs with another key, as another process of the machine would: what it says is not heard."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        key, self.key = self.key, "another key"
        self.say(parent, FORGED)
        self.idle(parent)
        self.reply(identity, parent, {"status": "error", "ename": FORGED})
        self.key = key
        super().on_execute(identity, parent, code)


class HalfFramesKernel(HonestKernel):
    """Sends too few frames, none, too many, and signatures that are cut short, before it is honest."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        whole = signed(self.key, header_of("stream"), parent, {"name": "stdout", "text": FORGED})
        for frames in (*(whole[:end] for end in range(6)), whole[1:], [whole[0], b"", *whole[2:]], [DELIMITER] * 6):
            self.send_frames(self.iopub, [b"topic", *frames])
            self.send_frames(self.shell, [identity, *(frames or [b""])])
        self.send_frames(self.iopub, [b""])
        self.send_frames(self.iopub, [b"", *[b""] * 50])
        super().on_execute(identity, parent, code)


class WrongTypesKernel(HonestKernel):
    """Puts every JSON type in every place, on each channel, before it is honest."""

    values: ClassVar[list[Any]] = [None, True, 5, 1.5, "x", [], {}, [1], {"a": 1}, b"", b"{", b"NaN", b"\xff", b"1e999"]

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        for value in self.values:
            for frames in (
                signed(self.key, value, parent, {}),
                signed(self.key, header_of("status"), value, {"execution_state": "idle"}),
                signed(self.key, header_of("stream"), {"msg_id": value} if not isinstance(value, bytes) else value, {}),
            ):
                self.send_frames(self.iopub, [b"", *frames])
                self.send_frames(self.shell, [identity, *frames])
            for kind in ("stream", "display_data", "execute_result", "status", "iopub_welcome", "nonsense", "error"):
                self.publish(kind, parent, value, value)
                if not isinstance(value, bytes) and kind != "error":
                    for field in ("name", "data", "execution_state", "subscription", "text"):
                        self.publish(kind, parent, {field: value, "transient": value})
        self.say(parent, code)
        self.idle(parent)
        self.reply(identity, parent)


class WrongTypesReplyKernel(HonestKernel):
    """Fails, with a reply whose every field is of a wrong type."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        self.idle(parent)
        self.reply(identity, parent, {"status": ["ok"], "ename": {}, "evalue": 5, "traceback": [None, [1]]})

    @override
    def on_control(self, identity: bytes, parent: dict[str, Any]) -> None:
        self.send(self.control, [identity], "put_reply", parent, {"status": 5, "evalue": [{}]})


# Who says too much.


class GiantMessageKernel(HonestKernel):
    """Publishes one message of 64 MiB, far more than one may weigh."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        self.say(parent, "x" * (64 * MIB))
        super().on_execute(identity, parent, code)


class GiantReplyKernel(HonestKernel):
    """Replies with 64 MiB."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        self.idle(parent)
        self.reply(identity, parent, {"status": "error", "ename": "x" * (64 * MIB)})


class ManyFramesKernel(HonestKernel):
    """Publishes a message of twenty thousand frames, each of them small."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        self.send_frames(self.iopub, [b"x"] * 20_000)
        super().on_execute(identity, parent, code)


class DeepJsonKernel(HonestKernel):
    """Nests JSON in every part: as deep as a parser takes, and deeper."""

    depths: ClassVar[list[int]] = [60, 200, 900, 1000, 1020, 1100, 100_000]

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        for depth in self.depths:
            for deep in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"NaN" + b"}" * depth):
                self.publish("display_data", parent, b'{"data": {"application/json": {"x": ' + deep + b"}}}")
                self.publish("display_data", parent, b'{"data": {"text/plain": ' + deep + b"}}")
                self.publish("stream", parent, b'{"name": "stdout", "text": ' + deep + b"}")
                self.publish("status", parent, {}, deep)
                self.send_frames(self.iopub, signed(self.key, deep, parent, {}))
                self.send_frames(self.iopub, signed(self.key, header_of("status"), deep, {}))
        super().on_execute(identity, parent, code)


class DeepReplyKernel(HonestKernel):
    """Fails, with a reply that is nested as deep as the parser takes."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        deep = b"[" * 1000 + b"]" * 1000
        self.idle(parent)
        self.reply(identity, parent, b'{"status": "error", "evalue": ' + deep + b', "traceback": [' + deep + b"]}")

    @override
    def on_control(self, identity: bytes, parent: dict[str, Any]) -> None:
        deep = b"[" * 1000 + b"]" * 1000
        self.send(self.control, [identity], "put_reply", parent, b'{"status": "error", "evalue": ' + deep + b"}")


class FloodingKernel(HonestKernel):
    """Prints until it is stopped."""

    text = "x" * 10_000
    most_seconds = 1.5
    """Where it stops by itself: a client that never lets its own deadline come would never stop it."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        frames = [b"topic", *signed(self.key, *self.flood(parent))]
        give_up = time.monotonic() + self.most_seconds
        while not self.is_stopping.is_set() and time.monotonic() < give_up:
            self.send_frames(self.iopub, frames)

    def flood(self, parent: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return header, parent and content of what is repeated."""
        return header_of("stream"), parent, {"name": "stdout", "text": self.text}


class TinyFloodingKernel(FloodingKernel):
    """Prints single characters until it is stopped."""

    text = "x"


class DisplayFloodingKernel(FloodingKernel):
    """Shows displays that are empty: none of them weighs anything."""

    @override
    def flood(self, parent: dict[str, Any]) -> tuple[Any, Any, Any]:
        return header_of("display_data"), parent, {"data": {}}


class NameFloodingKernel(FloodingKernel):
    """Shows displays whose weight is in the names of their media types."""

    @override
    def flood(self, parent: dict[str, Any]) -> tuple[Any, Any, Any]:
        return header_of("display_data"), parent, {"data": {"x" * 100_000: ""}}


class EmptyListsFloodingKernel(FloodingKernel):
    """Shows JSON that is short as text and large as objects."""

    @override
    def flood(self, parent: dict[str, Any]) -> tuple[Any, Any, Any]:
        return header_of("display_data"), parent, {"data": {"application/json": {"x": [[] for _ in range(20_000)]}}}


class ForeignFloodingKernel(FloodingKernel):
    """Prints for a request that nobody made until it is stopped."""

    text = FORGED

    @override
    def flood(self, parent: dict[str, Any]) -> tuple[Any, Any, Any]:
        return super().flood({"msg_id": "0" * 32})


class ReplyFloodingKernel(HonestKernel):
    """Sends replies that nobody asked for until it is stopped."""

    @override
    def on_execute(self, identity: bytes, parent: dict[str, Any], code: str) -> None:
        while not self.is_stopping.is_set():
            self.reply(identity, {"msg_id": "0" * 32}, {"status": "error", "ename": FORGED * 1000})


# Who speaks ZMTP without ZeroMQ: https://rfc.zeromq.org/spec/23/


class RawKernel(HonestKernel):
    """Answers the handshake of each connection and then does with its bytes what it likes."""

    @override
    def open_sockets(self) -> None:
        self._listeners = {}
        for channel in ("shell", "control", "iopub"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"{self._directory}/{channel}")
            listener.listen()
            listener.settimeout(0.02)
            self._listeners[channel] = listener

    @override
    def _run(self) -> None:
        threads: list[threading.Thread] = []
        while not self.is_stopping.is_set():
            for channel, listener in self._listeners.items():
                with contextlib.suppress(TimeoutError):
                    connection, _ = listener.accept()
                    threads.append(threading.Thread(target=self._connected, args=(channel, connection)))
                    threads[-1].start()
        for listener in self._listeners.values():
            listener.close()
        for thread in threads:
            thread.join()

    def _connected(self, channel: str, connection: socket.socket) -> None:
        # The client goes when it likes; the test says whether it may.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(0.2)
            self.talk(channel, connection)

    def talk(self, channel: str, connection: socket.socket) -> None:
        self.shake_hands(connection, b"XPUB" if channel == "iopub" else b"ROUTER")
        if channel == "iopub":
            topic = self._topic(connection)
            content = {"subscription": topic.decode()}
            self.say_frames(connection, [topic, *signed(self.key, header_of("iopub_welcome"), {}, content)])
            self.talk_iopub(connection)
        self._hold(connection)

    def talk_iopub(self, connection: socket.socket) -> None:
        """Say what is to be said after the welcome."""

    def shake_hands(self, connection: socket.socket, kind: bytes) -> None:
        connection.sendall(b"\xff" + b"\0" * 8 + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" * 32)
        self._read(connection, 64)
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
        connection.sendall(b"\x04" + bytes([len(ready)]) + ready)
        self._frame(connection)

    def say_frames(self, connection: socket.socket, frames: list[bytes]) -> None:
        self._send(connection, zmtp(frames))

    def _send(self, connection: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view and not self.is_stopping.is_set():
            with contextlib.suppress(TimeoutError):
                view = view[connection.send(view) :]

    def _topic(self, connection: socket.socket) -> bytes:
        """Return the first subscription that has a name; ZMTP 3.0 carries it in a message, 3.1 in a command."""
        while True:
            body = self._frame(connection)
            topic = body[10:] if body.startswith(b"\x09SUBSCRIBE") else body[1:]
            if topic:
                return topic

    def _frame(self, connection: socket.socket) -> bytes:
        flags = self._read(connection, 1)[0]
        length = self._read(connection, 8 if flags & 2 else 1)
        return self._read(connection, int.from_bytes(length, "big"))

    def _read(self, connection: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = connection.recv(size - len(data))
            except TimeoutError:
                if self.is_stopping.is_set():
                    raise
                continue
            if not more:
                raise ConnectionResetError
            data += more
        return data

    def _hold(self, connection: socket.socket) -> None:
        while not self.is_stopping.is_set():
            with contextlib.suppress(TimeoutError):
                if not connection.recv(65536):
                    return


def zmtp(frames: list[bytes], *, has_more: bool = False) -> bytes:
    """Return frames as ZMTP carries them; with `has_more` the message goes on after them."""

    def parts() -> Iterator[bytes]:
        for number, frame in enumerate(frames):
            more = 1 if has_more or number < len(frames) - 1 else 0
            yield struct.pack(">BQ", more | 2, len(frame)) + frame

    return b"".join(parts())


class RawGarbageKernel(RawKernel):
    """Answers with bytes that are no ZMTP."""

    @override
    def talk(self, channel: str, connection: socket.socket) -> None:
        self._send(connection, secrets.token_bytes(100_000))


class RawWrongSocketKernel(RawKernel):
    """Says that each of its sockets is of a kind that does not fit."""

    @override
    def talk(self, channel: str, connection: socket.socket) -> None:
        self.shake_hands(connection, b"PUSH")
        self._hold(connection)


class RawHangingUpKernel(RawKernel):
    """Closes each connection as soon as it is made."""

    @override
    def talk(self, channel: str, connection: socket.socket) -> None:
        pass


class RawHugeLengthKernel(RawKernel):
    """Announces a frame of more bytes than there are."""

    @override
    def talk_iopub(self, connection: socket.socket) -> None:
        self._send(connection, struct.pack(">BQ", 2, 2**63 - 1) + b"x" * 100_000)


class RawHalfFrameKernel(RawKernel):
    """Begins a frame and never ends it."""

    @override
    def talk_iopub(self, connection: socket.socket) -> None:
        self._send(connection, struct.pack(">BQ", 2, 1000) + b"x")


class RawFloodingKernel(RawKernel):
    """Sends small signed messages as fast as the socket takes them: the client always has one more to read."""

    @override
    def talk_iopub(self, connection: socket.socket) -> None:
        frames = [b"", *signed(self.key, header_of("stream"), {"msg_id": "0" * 32}, {"name": "stdout", "text": FORGED})]
        block = zmtp(frames) * 2000
        while not self.is_stopping.is_set():
            self._send(connection, block)


class RawCommandFloodKernel(RawKernel):
    """Sends commands without end, two bytes each: none of them is a message, so nobody would ever be done."""

    @override
    def talk_iopub(self, connection: socket.socket) -> None:
        while not self.is_stopping.is_set():
            self._send(connection, b"\x04\x00" * 500_000)


class RawEndlessMessageKernel(RawKernel):
    """Sends one message of parts without end, each small enough by itself."""

    sent = 0
    most = 256 * MIB
    """Where it stops for the sake of the machine that runs the test."""

    @override
    def talk_iopub(self, connection: socket.socket) -> None:
        block = zmtp([b"x" * MIB], has_more=True)
        while self.sent < self.most and not self.is_stopping.is_set():
            self._send(connection, block)
            self.sent += len(block)
