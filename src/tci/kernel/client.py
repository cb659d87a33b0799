"""Talks to one kernel: no thread, two connections, a third while it is needed."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tci.errors import InvalidFile, KernelFailed
from tci.kernel.messages import Frame, Message, Wire, buffers_of
from tci.kernel.output_buffer import OutputBuffer, keep
from tci.kernel.outputs import to_error
from tci.kernel.zmtp import Connection, ConnectionLost, MessageTooLarge, SocketType

LATE_OUTPUT_SECONDS = 2.0
"""How long `idle` may come after the reply, or the reply after `idle`: each follows the other at once, unless one of
them, or what was published before it, was too large for the connection, or code has broken the kernel's threads."""

CONTROL_REPLY_SECONDS = 30.0
"""How long the control channel may take; its thread runs beside the code, so only a stuck kernel takes long."""

MAX_REPLY_BYTES = 1024**2
"""Largest reply; the launcher's are a hundredth of that."""

WELCOME = "iopub_welcome"
"""What the kernel publishes to each new subscription."""


Reply = tuple[Message, Sequence[Frame]]
"""An answer of the control channel and its buffers, all of it whatever code in the kernel made of it."""


class Ask(Protocol):
    """A question on the control channel; raises KernelFailed."""

    def __call__(  # noqa: D102 (said above)
        self, message_type: str, content: dict[str, Any], buffers: Sequence[bytes] = ()
    ) -> Awaitable[Reply]: ...


class MessageLost(Exception):
    """What the kernel said is not whole: of the reply and `idle` only one came, though they follow each other."""


class OutputTooLarge(MessageLost):
    """A message was far larger than any output may be; what came after it can't be read."""


class Patience:
    """Raises TimeoutError in its block, LATE_OUTPUT_SECONDS after it was last begun.

    It ends in two steps: after a time in which this process itself stood still, what came meanwhile is read first.
    """

    def __init__(self) -> None:
        self._timeout = asyncio.timeout(None)
        self._first_step: asyncio.TimerHandle | None = None
        self._is_left = False

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_left = True
        if self._first_step is not None:
            self._first_step.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def begin(self) -> None:
        """Be patient from now on; once the block has been left, or is about to be, do nothing."""
        if self._is_left or self._timeout.expired():
            return
        if self._first_step is not None:
            self._first_step.cancel()
            self._timeout.reschedule(None)
        self._first_step = asyncio.get_running_loop().call_later(LATE_OUTPUT_SECONDS / 2, self._begin_second_step)

    def _begin_second_step(self) -> None:
        self._timeout.reschedule(asyncio.get_running_loop().time() + LATE_OUTPUT_SECONDS / 2)


class KernelClient:
    """One kernel, reached through the sockets of its sandbox. Not for two executions at once."""

    def __init__(self, *, directory: str, key: str, max_message_bytes: int) -> None:
        self._directory = directory
        self._wire = Wire(key)
        self._max_message_bytes = max_message_bytes
        self._shell: Connection | None = None
        self._iopub: Connection | None = None

    def close(self) -> None:
        """Drop the connections; the kernel goes on."""
        for connection in (self._shell, self._iopub):
            if connection is not None:
                connection.close()

    @property
    def is_connected(self) -> bool:
        """Whether the lasting connections have been made, and the kernel has not closed them."""
        return all(connection is not None and connection.is_open for connection in (self._shell, self._iopub))

    async def connect(self) -> None:
        """Make the lasting connections; raises ConnectionLost, and waits for ever: set a deadline."""
        await self._connected()

    async def wait_until_ready(self) -> None:
        """Return once the kernel publishes to us and has run one empty execution. Waits for ever: set a deadline."""
        await self.execute("", OutputBuffer(limit=1024), is_silent=True)

    async def execute(self, code: str, outputs: OutputBuffer, *, is_silent: bool = False) -> bool:
        """Run code and return whether the kernel says that it went well. Waits for ever: set a deadline.

        The outputs are in the buffer as they come. The run has ended once both the reply and `idle` are
        here: the reply may come before the last outputs. Raises MessageLost, OutputTooLarge and ConnectionLost.
        """
        shell, iopub = await self._connected()
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
        await shell.send(frames)
        loop = asyncio.get_running_loop()
        reply_task = loop.create_task(self._reply(shell, request_id))
        try:
            async with Patience() as patience:
                reply_task.add_done_callback(lambda _: patience.begin())
                # From the reply on, the next message is waited for a moment, no longer, until it is `idle`.
                while await self._keep_next(iopub, request_id, outputs):
                    if reply_task.done():
                        patience.begin()
                if not reply_task.done():
                    patience.begin()
                reply = await reply_task
        except MessageTooLarge:
            raise OutputTooLarge from None
        except TimeoutError:
            raise MessageLost from None
        finally:
            reply_task.cancel()
            await asyncio.wait({reply_task})  # it must not read beside the next one
            # Of a connection that ended iopub tells as well; asyncio is not to complain about this one.
            if not reply_task.cancelled():
                reply_task.exception()
        is_ok = reply.content.get("status") == "ok"
        if not is_ok and not outputs.has_error:
            # IPython tells some failures, say an unknown magic, in the reply alone.
            outputs.add(to_error(reply.content))
        return is_ok

    async def put(self, files: Mapping[str, bytes]) -> None:
        """Write files into the session's working directory.

        Raises InvalidFile where the session can't hold them (its disk is full, a name is a directory).
        """
        reply, _buffers = await self._control("put_request", {"names": list(files)}, tuple(files.values()))
        if reply.content.get("status") != "ok":
            reason = reply.content.get("evalue")
            reason = reason[:500] if isinstance(reason, str) else "unknown reason"
            raise InvalidFile(f"The file can't be written: {reason}", param="files")

    async def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the code that runs, if any runs."""
        await self._control("interrupt_request", {})

    @contextlib.asynccontextmanager
    async def control(self) -> AsyncIterator[Ask]:
        """Give a way to ask the control channel, over one connection that is made at the first question.

        It raises KernelFailed where the kernel does not answer in time.
        """
        connection: Connection | None = None

        def close() -> None:
            nonlocal connection
            if connection is not None:
                connection.close()
            connection = None

        async def ask(message_type: str, content: dict[str, Any], buffers: Sequence[bytes] = ()) -> Reply:
            nonlocal connection
            request_id, frames = self._wire.request(message_type, content, buffers)
            is_sent = False
            try:
                async with asyncio.timeout(CONTROL_REPLY_SECONDS):
                    connection = connection or await self._open("control", SocketType.DEALER)
                    await connection.send(frames)
                    is_sent = True
                    return await self._reply_with_buffers(connection, request_id)
            except (TimeoutError, ConnectionLost, MessageTooLarge) as error:
                close()
                message = f"The kernel did not answer a {message_type} within {CONTROL_REPLY_SECONDS:g} seconds."
                raise KernelFailed(message) from error
            finally:
                if not is_sent:  # nothing can follow half a message
                    close()

        try:
            yield ask
        finally:
            close()

    async def _connected(self) -> tuple[Connection, Connection]:
        """Return the two lasting connections, made when they are first needed."""
        if self._shell is None:
            self._shell = await self._open("shell", SocketType.DEALER)
        if self._iopub is None:
            # Each subscription is answered by a welcome that names it; ours is known by a name that no other process
            # has. What is published before the kernel knows of the subscription is lost, `idle` included.
            subscription = secrets.token_hex(8)
            iopub = await self._open("iopub", SocketType.SUB, topics=[b"", subscription.encode()])
            try:
                await self._wait_for_welcome(iopub, subscription)
            except BaseException:
                iopub.close()
                raise
            self._iopub = iopub
        return self._shell, self._iopub

    async def _wait_for_welcome(self, iopub: Connection, subscription: str) -> None:
        is_welcome = False
        while not is_welcome:
            message = await self._receive(iopub)
            is_welcome = bool(
                message and message.type == WELCOME and message.content.get("subscription") == subscription
            )
            del message

    async def _keep_next(self, iopub: Connection, request_id: str, outputs: OutputBuffer) -> bool:
        """Keep what the next message shows, if it is of this run; return whether more is to come."""
        message = await self._receive(iopub)
        if message is None or message.parent_id != request_id:
            return True
        outputs.has_begun = True
        keep(message, outputs)
        return not (message.type == "status" and message.content.get("execution_state") == "idle")

    async def _reply(self, connection: Connection, request_id: str) -> Message:
        while True:
            message = await self._receive(connection)
            if message is not None and message.parent_id == request_id:
                return message
            del message  # it may be large, and must not be held beside the next

    async def _receive(self, connection: Connection) -> Message | None:
        """Return the next message, or None for what is none."""
        frames = await connection.receive()
        if not connection.has_waited:
            # With a message there already, the line above never gives way: a flood would stop every other session, and
            # its own deadline.
            await asyncio.sleep(0)
        return self._wire.read(frames)

    async def _control(self, message_type: str, content: dict[str, Any], buffers: Sequence[bytes] = ()) -> Reply:
        async with self.control() as ask:
            return await ask(message_type, content, buffers)

    async def _reply_with_buffers(self, connection: Connection, request_id: str) -> Reply:
        while True:
            frames = await connection.receive()
            message = self._wire.read(frames)
            if message is not None and message.parent_id == request_id:
                return message, buffers_of(frames)
            del message, frames
            await asyncio.sleep(0)  # see `_receive`

    async def _open(self, channel: str, kind: SocketType, *, topics: Sequence[bytes] = ()) -> Connection:
        # Outputs come on iopub alone.
        limit = self._max_message_bytes if kind is SocketType.SUB else MAX_REPLY_BYTES
        return await Connection.open(f"{self._directory}/{channel}", kind, max_message_bytes=limit, topics=topics)


async def wait_for_sockets(directory: Path) -> None:
    """Return once the kernel's sockets are there; the last one made is `control`. Waits for ever: set a deadline."""
    while not (directory / "control").exists():  # noqa: ASYNC110 (a stat of 2 µs; inotify would need a library)
        await asyncio.sleep(0.005)
