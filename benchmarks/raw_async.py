"""The raw client as a service would have to be: on an event loop, with pyzmq's own asyncio sockets."""

import asyncio
from pathlib import Path
from typing import Self

import zmq
import zmq.asyncio

from benchmarks.raw_kernel import RawKernel


class RawAsync:
    """Runs `print(1)` over and over; the same messages as RawKernel's."""

    def __init__(self, directory: Path, key: str) -> None:
        self._directory, self._key = directory, key
        self._runner = asyncio.Runner()
        self._context = zmq.asyncio.Context(zmq.Context.instance())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()

    def run(self, count: int) -> None:
        """Run it so many times; connects anew, so that nobody else's messages wait."""
        kernel = RawKernel(self._directory, self._key)
        try:
            self._runner.run(self._run(kernel, count))
        finally:
            kernel.close()

    async def _run(self, kernel: RawKernel, count: int) -> None:
        shell, iopub = (zmq.asyncio.Socket.from_socket(source) for source in kernel.sources)
        for _ in range(count):
            await shell.send_multipart(kernel.new_request())
            await asyncio.gather(
                _take_until(kernel, shell, "execute_reply"),
                _take_until(kernel, iopub, "idle"),
            )


async def _take_until(kernel: RawKernel, source: zmq.asyncio.Socket, awaited: str) -> None:
    while kernel.is_awaiting(awaited):
        kernel.take(await source.recv_multipart())
