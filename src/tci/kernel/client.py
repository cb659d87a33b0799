"""Talks to one kernel over ZeroMQ: no thread, two sockets, a third while it is needed."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from tci.errors import InvalidFile, KernelFailed
from tci.kernel.messages import Message, Wire
from tci.kernel.outputs import OutputBuffer, to_error, to_output

LATE_OUTPUT_SECONDS = 2.0
"""How long `idle` may come after the reply, or the reply after `idle`: each follows the other at once, unless one of
them, or what was published before it, was too large for the connection, or code has broken the kernel's threads."""

CONTROL_REPLY_SECONDS = 30.0
"""How long the control channel may take; its thread runs beside the code, so only a stuck kernel takes long."""

WELCOME = "iopub_welcome"
"""What the kernel publishes to each new subscription: to ours at first, and again after a broken connection."""

RECEIVE_MESSAGES = 2
"""Messages that ZeroMQ may hold for us. More wait in the kernel's process, inside the sandbox's memory limit."""


class MessageLost(Exception):
    """What the kernel said can't be trusted to be whole: a message was larger than ZeroMQ lets through."""


class KernelClient:
    """One kernel, reached through the sockets of its sandbox. Not for two executions at once."""

    def __init__(self, context: zmq.asyncio.Context, *, directory: str, key: str, max_message_bytes: int) -> None:
        self._context = context
        self._directory = directory
        self._wire = Wire(key)
        self._max_message_bytes = max_message_bytes
        self._shell = self._connect(zmq.DEALER, "shell")
        self._iopub = self._connect(zmq.SUB, "iopub")
        self._iopub.subscribe(b"")
        # Each subscription is answered by a welcome that names it. This one is known by its name: of another
        # process, or of a connection that broke and was made again.
        self._subscription = secrets.token_hex(8)
        self._iopub.subscribe(self._subscription.encode())
        self._is_subscribed = False

    def close(self) -> None:
        """Drop the connection; the kernel goes on."""
        self._shell.close()
        self._iopub.close()

    async def wait_until_ready(self) -> None:
        """Return once the kernel publishes to us and has run one empty execution. Waits for ever: set a deadline."""
        await self.execute("", OutputBuffer(limit=1024), is_silent=True)

    async def execute(self, code: str, outputs: OutputBuffer, *, is_silent: bool = False) -> bool:
        """Run code and return whether the kernel says that it went well. Waits for ever: set a deadline.

        The outputs are in the buffer as they come. The run has ended once both the reply and `idle` are
        here: the reply may come before the last outputs. Raises MessageLost.
        """
        await self._wait_until_subscribed()
        content = {
            "code": code,
            "silent": is_silent,
            "store_history": not is_silent,
            "user_expressions": {},
            "allow_stdin": False,
            # The calls of others that wait in the kernel's queue are not dropped when this one raises.
            "stop_on_error": False,
        }
        request_id, frames = self._wire.request("execute_request", content)
        await self._shell.send_multipart(frames)
        loop = asyncio.get_running_loop()
        reply_task = loop.create_task(self._reply(self._shell, request_id))
        reply_task.add_done_callback(lambda _: _limit(patience, loop.time() + LATE_OUTPUT_SECONDS))
        try:
            async with asyncio.timeout(None) as patience:
                # From the reply on, the next message is waited for a moment, no longer, until it is `idle`.
                async for message in self._published(request_id):
                    if reply_task.done():
                        patience.reschedule(loop.time() + LATE_OUTPUT_SECONDS)
                    if message.left_out:
                        outputs.leave_out(message.left_out)
                    if output := to_output(message):
                        outputs.add(output)
            async with asyncio.timeout(LATE_OUTPUT_SECONDS):
                reply = await reply_task
        except TimeoutError:
            raise MessageLost from None
        finally:
            reply_task.cancel()
        is_ok = reply.content.get("status") == "ok"
        if not is_ok and not outputs.has_error:
            # IPython tells some failures, say an unknown magic, in the reply alone.
            outputs.add(to_error(reply.content))
        return is_ok

    async def put(self, files: Mapping[str, bytes]) -> None:
        """Write files into the session's working directory.

        Raises InvalidFile where the session can't hold them (its disk is full, a name is a directory).
        """
        reply = await self._control("put_request", {"names": list(files)}, tuple(files.values()))
        if reply.content.get("status") != "ok":
            reason = reply.content.get("evalue")
            reason = reason[:500] if isinstance(reason, str) else "unknown reason"
            raise InvalidFile(f"The file can't be written: {reason}", param="files")

    async def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the code that runs, if any runs."""
        await self._control("interrupt_request", {})

    async def _wait_until_subscribed(self) -> None:
        # What is published before the kernel knows of the subscription is lost, `idle` included.
        while not self._is_subscribed:
            message = await self._receive(self._iopub)
            self._is_subscribed = message is not None and self._is_welcome(message)

    def _is_welcome(self, message: Message) -> bool:
        return message.type == WELCOME and message.content.get("subscription") == self._subscription

    async def _published(self, request_id: str) -> AsyncIterator[Message]:
        """Give the messages that the request's run publishes until the kernel is idle; raises MessageLost."""
        while True:
            message = await self._receive(self._iopub)
            if message is None:
                continue
            if self._is_welcome(message):
                raise MessageLost
            if message.parent_id != request_id:
                continue
            if message.type == "status" and message.content.get("execution_state") == "idle":
                return
            yield message

    async def _reply(self, socket: zmq.asyncio.Socket, request_id: str) -> Message:
        while True:
            message = await self._receive(socket)
            if message is not None and message.parent_id == request_id:
                return message

    async def _receive(self, socket: zmq.asyncio.Socket) -> Message | None:
        """Return the next message, or None for what is none."""
        frames = await socket.recv_multipart()
        # With a message there already, the line above never gives way: a flood would stop every other session, and
        # its own deadline.
        await asyncio.sleep(0)
        return self._wire.read(frames)

    async def _control(self, message_type: str, content: dict[str, Any], buffers: tuple[bytes, ...] = ()) -> Message:
        socket = self._connect(zmq.DEALER, "control")
        try:
            request_id, frames = self._wire.request(message_type, content, buffers)
            async with asyncio.timeout(CONTROL_REPLY_SECONDS):
                await socket.send_multipart(frames)
                return await self._reply(socket, request_id)
        except TimeoutError:
            message = f"The kernel did not answer a {message_type} within {CONTROL_REPLY_SECONDS:g} seconds."
            raise KernelFailed(message) from None
        finally:
            socket.close()

    def _connect(self, kind: int, channel: str) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.maxmsgsize = self._max_message_bytes
        socket.rcvhwm = RECEIVE_MESSAGES
        socket.reconnect_ivl = 20
        socket.reconnect_ivl_max = 1000
        socket.connect(f"ipc://{self._directory}/{channel}")
        return socket


def _limit(timeout: asyncio.Timeout, when: float) -> None:
    # The block may have been left already, and a timeout that has ended can't be moved.
    with contextlib.suppress(RuntimeError):
        timeout.reschedule(when)


@asynccontextmanager
async def open_context(max_sockets: int = 100_000) -> AsyncIterator[zmq.asyncio.Context]:
    """Make the one ZeroMQ context that all kernel clients share."""
    context = zmq.asyncio.Context()
    context.max_sockets = min(max_sockets, context.get(zmq.SOCKET_LIMIT))
    try:
        yield context
    finally:
        context.destroy(linger=0)


async def wait_for_sockets(directory: Path) -> None:
    """Return once the kernel's sockets are there; the last one made is `control`. Waits for ever: set a deadline."""
    while not (directory / "control").exists():  # noqa: ASYNC110 (a stat of 2 µs; inotify would need a library)
        await asyncio.sleep(0.005)
