"""Things planted on the host for the attacks to find: were the jail to leak, they would come upon these."""

import asyncio
import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

from tci.doctor.attacks.toolkit import Target
from tci.sandbox.driver import Limits

IPC_CREAT, IPC_RMID = 0o1000, 0

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (the host's, where a decoy of a random name is put)


@asynccontextmanager
async def decoys(*, host_paths: Sequence[Path] = (), host_ports: Sequence[int] = ()) -> AsyncIterator[Target]:
    """Plant decoys for as long as the block lasts, and yield what the attacks are told of them.

    Everything is open to every user of this machine, so that nothing but the jail keeps an attack away: a file, an
    abstract socket, shared memory, ports, a process and a variable of this process.
    """
    marker = f"tci-decoy-{secrets.token_hex(8)}"
    key = secrets.randbelow(1 << 30) + 2
    async with contextlib.AsyncExitStack() as stack:
        file = stack.enter_context(_decoy_file(marker))
        stack.enter_context(_shared_memory(key, marker))
        stack.enter_context(_variable(marker))
        own_ports = [await stack.enter_async_context(_listening(host)) for host in ("0.0.0.0", "127.0.0.1")]  # noqa: S104
        await stack.enter_async_context(_listening(f"\0{marker}"))
        pid = await stack.enter_async_context(_victim(marker))
        yield Target(
            marker=marker,
            host_paths=(str(file), *map(str, host_paths)),
            host_name=socket.gethostname(),
            host_pid=pid,
            host_ports=(*own_ports, *host_ports),
            host_addresses=tuple(_own_addresses()),
            abstract_socket=marker,
            ipc_key=key,
            resolvers=tuple(_resolvers()),
        )


def aimed_at(target: Target, limits: Limits) -> Target:
    """Return what the attacks on a sandbox of these limits are told."""
    return replace(
        target,
        memory_bytes=limits.memory_bytes,
        pids=limits.pids,
        open_files=limits.open_files,
        disk_bytes=limits.disk_bytes,
        shm_bytes=limits.shm_bytes,
    )


@contextmanager
def _decoy_file(marker: str) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="tci-decoy-"))
    try:
        directory.chmod(0o777)
        file = directory / marker
        file.write_text(marker)
        file.chmod(0o666)
        yield file
    finally:
        shutil.rmtree(directory)


@contextmanager
def _shared_memory(key: int, marker: str) -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    segment = libc.shmget(key, 4096, IPC_CREAT | 0o666)
    file = SHARED_MEMORY / marker
    try:
        file.write_text(marker)
        file.chmod(0o666)
        yield
    finally:
        file.unlink()
        libc.shmctl(segment, IPC_RMID, None)


@contextmanager
def _variable(marker: str) -> Iterator[None]:
    name = "TCI_" + marker.replace("-", "_").upper()
    os.environ[name] = marker
    try:
        yield
    finally:
        del os.environ[name]


@asynccontextmanager
async def _listening(where: str) -> AsyncIterator[int]:
    """Listen on an address, or on an abstract socket, and yield the port."""
    if where.startswith("\0"):
        server: asyncio.Server = await asyncio.start_unix_server(_hang_up, path=where)
    else:
        server = await asyncio.start_server(_hang_up, where, 0)
    async with server:
        name = server.sockets[0].getsockname()
        yield name[1] if isinstance(name, tuple) else 0


async def _hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@asynccontextmanager
async def _victim(marker: str) -> AsyncIterator[int]:
    """Run a process that does nothing but to be there."""
    code = "import time\nwhile True: time.sleep(60)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, marker)
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


def _own_addresses() -> Iterator[str]:
    """Give the addresses from which this host would send to the outside; nothing is sent."""
    for family, outside in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((outside, 53))
            yield probe.getsockname()[0]


def _resolvers() -> Iterator[str]:
    with contextlib.suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            words = line.split()
            if words[:1] == ["nameserver"] and len(words) > 1:
                yield words[1].partition("%")[0]
