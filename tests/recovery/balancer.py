"""A balancer as operators have one: it asks each service at /ready and sends new requests to those that say yes."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

CHECK_SECONDS = 0.3
"""How often each service is asked; TCI_DRAIN_SECONDS has to be longer."""


@dataclass
class Balancer:
    """Passes on one connection for each of a client's, to the next service that is ready; it repeats nothing."""

    ports: Sequence[int]
    url: str = ""
    ready: list[int] = field(default_factory=list)
    sent: dict[int, int] = field(default_factory=dict)
    """Connections that each service got."""
    _next: int = 0

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        """Serve until told to stop."""
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, httpx.AsyncClient(timeout=2) as client:
            await self._check(client)
            started.set()
            while not stop.is_set():
                await self._check(client)
                await asyncio.sleep(CHECK_SECONDS)

    async def _check(self, client: httpx.AsyncClient) -> None:
        ready = []
        for port in self.ports:
            with contextlib.suppress(httpx.TransportError):
                answer = await client.get(f"http://127.0.0.1:{port}/ready", headers={"connection": "close"})
                if answer.status_code == httpx.codes.OK:
                    ready.append(port)
        self.ready = ready

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._next += 1
        port = self.ready[self._next % len(self.ready)]
        self.sent[port] = self.sent.get(port, 0) + 1
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_copy(reader, forth), _copy(back, writer))
        except OSError:
            pass  # the client sees that its connection broke
        finally:
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@contextmanager
def balancing(ports: Sequence[int]) -> Iterator[Balancer]:
    """Run a balancer beside the test."""
    balancer, started = Balancer(ports), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        loop.run_until_complete(balancer.serve(started, stop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(20)
    try:
        yield balancer
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
