"""Opens Redis, and turns its client's errors into ours."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import RedisError

from tci.errors import SetupError, Unavailable
from tci.settings import Settings
from tci.storage.embedded_redis import open_embedded_redis

PATIENCE_SECONDS = 2.0
"""How long a server may take to answer. What stands on Redis alone is refused then, all else goes on without it."""


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[Redis]:
    """Connect to Redis for as long as the block lasts; raises SetupError where it does not answer."""
    async with _connect(settings) as client:
        try:
            await client.ping()
        except RedisError as error:
            message = f"Redis does not answer ({error}). Check TCI_REDIS_URL."
            raise SetupError(message) from error
        yield client


def once_more() -> Retry:
    """Return the client's patience: one new connection at once, since a restarted server leaves none that works."""
    return Retry(ConstantBackoff(0.02), 1)


def _connect(settings: Settings) -> AbstractAsyncContextManager[Redis]:
    if settings.redis_url is None:
        return open_embedded_redis(settings.data_dir)
    try:
        return Redis.from_url(
            settings.redis_url.get_secret_value(),
            client_name="tci",
            socket_timeout=PATIENCE_SECONDS,
            socket_connect_timeout=PATIENCE_SECONDS,
            retry=once_more(),
        )
    except ValueError as error:
        raise SetupError(f"TCI_REDIS_URL can't be used: {error}") from error


@contextmanager
def translated() -> Iterator[None]:
    """Turn the client's errors into ours, and bring back a cancellation that the client swallowed.

    redis-py 8 answers as if nothing were where a task is cancelled at some moments of a command, so the call of a
    client that has left would go on.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except (RedisError, OSError) as error:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise Unavailable("Redis") from error
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
