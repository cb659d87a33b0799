"""The raw client as a service would have to be: on an event loop, with pyzmq's own asyncio sockets."""

import asyncio
from pathlib import Path
from typing import Self

import zmq
import zmq.asyncio

from benchmarks.raw_kernel import RawKernel


class RawAsync:
    """Runs `print(1)` over and over; the same messages as RawKernel's.

    One connection for one event loop. An event loop does not notice that pyzmq closed a socket, and is not asked to
    watch the next one that gets its number: a second connection on the same loop waits for ever.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self._kernel = RawKernel(directory, key)
        self._runner = asyncio.Runner()
        self._shell, self._iopub = map(zmq.asyncio.Socket.from_socket, self._kernel.sources)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()
        self._kernel.close()

    def run(self, count: int) -> None:
        """Run it so many times."""
        self._runner.run(self._run(count))

    async def _run(self, count: int) -> None:
        for _ in range(count):
            await self._shell.send_multipart(self._kernel.new_request())
            await asyncio.gather(
                self._take_until(self._shell, "execute_reply"),
                self._take_until(self._iopub, "idle"),
            )

    async def _take_until(self, source: zmq.asyncio.Socket, awaited: str) -> None:
        while self._kernel.is_awaiting(awaited):
            self._kernel.take(await source.recv_multipart())
