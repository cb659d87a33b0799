"""Gates: the UNIX socket in each sandbox's directory, and the way from there to the proxy.

A gate decides nothing, the proxy does; it only knows which of the proxy's ports belongs to the session's policy, and
it says in words what the proxy's bare 403 means.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from tci import metrics
from tci.settings import EgressPolicy

log = structlog.get_logger()

MAX_CONNECTIONS = 32
"""Of one session at a time, so that none takes all that there are."""

CHUNK_BYTES = 64 * 1024

CONNECT_SECONDS = 5.0

LAST_BYTES_SECONDS = 5.0
"""How long the last bytes of a connection may wait to be read."""

REFUSED = b"HTTP/1.1 403 Forbidden\r\n"
BY_THE_PROXY = b"\r\nX-Squid-Error: ERR_ACCESS_DENIED"

PROXY_SOCKET, CA_FILE = "proxy", "ca.pem"


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where the proxy listens for each policy."""

    host: str
    ports: dict[EgressPolicy, int]


@dataclass(slots=True)
class Gate:
    """One session's listening socket."""

    server: asyncio.Server
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def close(self) -> None:
        """Stop listening and drop every connection."""
        self.server.close()
        for task in self.tasks:
            task.cancel()


class Gates:
    """Every gate of this process."""

    def __init__(
        self, *, find_proxy: Callable[[], Proxy | None], run_dir: Path, sockets: str, ca_bundle: Path | None
    ) -> None:
        self._find_proxy = find_proxy
        self._run_dir = run_dir
        self._sockets = sockets
        self._ca_bundle = ca_bundle
        self._gates: dict[str, Gate] = {}

    @property
    def has_ca(self) -> bool:
        """Whether the directories that are shown to sandboxes hold certificates."""
        return self._ca_bundle is not None

    def prepare(self, sandbox_id: str, policy: EgressPolicy) -> Path | None:
        """Return the directory to show a sandbox, in which its gate will be; None where its policy lets nothing out."""
        if policy is EgressPolicy.NONE:
            return None
        directory = self._run_dir / sandbox_id / "egress"
        self._make_directory(directory)  # not in a thread, which would go on after a cancellation
        return directory

    async def open(self, sandbox_id: str, policy: EgressPolicy) -> Path | None:
        """Listen for a sandbox and return the directory to show it; None where its policy lets nothing out.

        Does nothing if its gate is open already.
        """
        if policy is EgressPolicy.NONE:
            return None
        directory = self._run_dir / sandbox_id / "egress"
        if sandbox_id not in self._gates:
            self.prepare(sandbox_id, policy)
            path = f"{self._sockets}/{sandbox_id}/egress/{PROXY_SOCKET}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 (of a service that was killed)
            gate: Gate

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._serve(gate, policy, reader, writer)

            gate = Gate(await asyncio.start_unix_server(serve, path, limit=CHUNK_BYTES))
            os.chmod(path, 0o666)  # noqa: PTH101, S103 (the parent is closed to others of the host)
            self._gates[sandbox_id] = gate
        return directory

    def close(self, sandbox_id: str) -> None:
        """Stop listening for a sandbox; does nothing where no gate is open."""
        if gate := self._gates.pop(sandbox_id, None):
            gate.close()

    def close_all(self) -> None:
        """Stop listening; the sessions go on."""
        for sandbox_id in list(self._gates):
            self.close(sandbox_id)

    def _make_directory(self, directory: Path) -> None:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        target = directory / CA_FILE
        if self._ca_bundle is not None and not target.exists():
            shutil.copyfile(self._ca_bundle, target)
            target.chmod(0o644)

    async def _serve(
        self, gate: Gate, policy: EgressPolicy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a server's callback runs in one)
        gate.tasks.add(task)
        try:
            if len(gate.tasks) > MAX_CONNECTIONS:
                await _answer(writer, "503 Too many connections of this session at once")
            else:
                await self._relay(policy, reader, writer)
        except OSError:
            pass  # one of the two left
        finally:
            # Counted until it is gone: one that is closed keeps its descriptor while its last bytes are not read.
            try:
                await _end(writer)
            finally:
                gate.tasks.discard(task)

    async def _relay(self, policy: EgressPolicy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            proxy = self._find_proxy()
            if proxy is None:
                raise ConnectionRefusedError
            async with asyncio.timeout(CONNECT_SECONDS):
                back, forth = await asyncio.open_connection(proxy.host, proxy.ports[policy])
        except (OSError, TimeoutError):
            await _answer(writer, "503 The proxy of this server does not answer now: try again")
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, forth))
                group.create_task(_copy_answer(back, writer, policy))
        except* OSError:
            pass
        finally:
            forth.transport.abort()


async def _end(writer: asyncio.StreamWriter) -> None:
    """Close a connection, in time or by force."""
    try:
        writer.close()
        async with asyncio.timeout(LAST_BYTES_SECONDS):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK_BYTES):
        target.write(data)
        await target.drain()  # a slow reader holds the other side back
    with contextlib.suppress(OSError):
        target.write_eof()


async def _copy_answer(source: asyncio.StreamReader, target: asyncio.StreamWriter, policy: EgressPolicy) -> None:
    first = await source.read(CHUNK_BYTES)
    if first.startswith(REFUSED) and BY_THE_PROXY in first:
        metrics.CONNECTIONS_REFUSED.labels(policy.value).inc()
        # Of a refused tunnel, pip and requests show the status line and nothing else.
        first = first.replace(REFUSED, f"HTTP/1.1 403 {refusal(policy)}\r\n".encode(), 1)
    target.write(first)
    await _copy(source, target)


def refusal(policy: EgressPolicy) -> str:
    """Return the sentence that tells code why it can't reach a host."""
    reach = {
        EgressPolicy.NONE: "nothing",
        EgressPolicy.PACKAGES: "the package index and nothing else",
        EgressPolicy.OPEN: "public addresses only",
    }
    return f"Blocked: the egress policy '{policy}' of this server lets code reach {reach[policy]}"


async def _answer(writer: asyncio.StreamWriter, status: str) -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
