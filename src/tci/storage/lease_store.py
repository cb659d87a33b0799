"""The clock and the live counts, in Redis. Everything here can be rebuilt from SQL."""

import datetime as dt
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tci.errors import NoCapacity, SessionLimitReached, SetupError, Unavailable
from tci.settings import Settings
from tci.storage.embedded_redis import open_embedded_redis
from tci.storage.session_store import Session

RESERVE = """
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local live, mine, id = KEYS[1], KEYS[2], ARGV[1]
if redis.call('ZCARD', mine) >= tonumber(ARGV[2]) then return 'account' end
if redis.call('ZCARD', live) >= tonumber(ARGV[3]) then return 'machine' end
local expires = ms + tonumber(ARGV[4])
redis.call('ZADD', live, expires, id)
redis.call('ZADD', mine, expires, id)
return tostring(ms)
"""
"""Checks both limits and takes the place in one step, so that no two replicas can take the last one."""


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


def _connect(settings: Settings) -> AbstractAsyncContextManager[Redis]:
    if settings.redis_url is None:
        return open_embedded_redis(settings.data_dir)
    try:
        return Redis.from_url(settings.redis_url.get_secret_value(), client_name="tci", socket_timeout=5)
    except ValueError as error:
        raise SetupError(f"TCI_REDIS_URL can't be used: {error}") from error


class LeaseStore:
    """Two sorted sets of session ids by expiry: one of all live sessions, one for each account."""

    def __init__(self, redis: Redis, *, deployment: str) -> None:
        self._redis = redis
        self._live = f"tci:{deployment}:sessions"
        self._deployment = deployment
        self._reserve = redis.register_script(RESERVE)

    def _mine(self, account_id: int | Literal["*"]) -> str:
        return f"tci:{self._deployment}:account:{account_id}:sessions"

    def _pipeline(self) -> Any:
        # Its methods are typed as if each had to be awaited; here they only queue.
        return self._redis.pipeline()

    async def reserve(
        self, session_id: str, *, account_id: int, ttl: dt.timedelta, account_limit: int, machine_limit: int
    ) -> dt.datetime:
        """Take a place for a session and return its start by Redis's clock.

        Raises SessionLimitReached, NoCapacity or Unavailable; then no place is taken. Whoever reserved
        releases, if the session does not open.
        """
        keys = [self._live, self._mine(account_id)]
        ttl_ms = int(ttl.total_seconds() * 1000)
        with _translated():
            answer: bytes = await self._reserve(keys=keys, args=[session_id, account_limit, machine_limit, ttl_ms])
        if answer == b"account":
            raise SessionLimitReached(account_limit)
        if answer == b"machine":
            raise NoCapacity(machine_limit)
        return dt.datetime.fromtimestamp(int(answer) / 1000, dt.UTC)

    async def release(self, session_id: str, *, account_id: int) -> None:
        """Give a place back; does nothing if it is free."""
        with _translated():
            async with self._pipeline() as pipe:
                pipe.zrem(self._live, session_id)
                pipe.zrem(self._mine(account_id), session_id)
                await pipe.execute()

    async def forget(self, session_id: str) -> None:
        """Drop a place whose session was never recorded, and so its account is not known."""
        with _translated():
            accounts = [key async for key in self._redis.scan_iter(match=self._mine("*"))]
            async with self._pipeline() as pipe:
                for key in (self._live, *accounts):
                    pipe.zrem(key, session_id)
                await pipe.execute()

    async def now(self) -> dt.datetime:
        """Return the moment by Redis's clock, the one that decides what has expired."""
        with _translated():
            seconds, microseconds = await self._redis.time()
        return dt.datetime.fromtimestamp(seconds, dt.UTC) + dt.timedelta(microseconds=microseconds)

    async def due(self) -> list[str]:
        """Return the ids of sessions whose time is over."""
        now = await self.now()
        with _translated():
            due = await self._redis.zrange(self._live, "-inf", now.timestamp() * 1000, byscore=True)
        return [session_id.decode() for session_id in due if isinstance(session_id, bytes)]

    async def rebuild(self, live: Iterable[Session]) -> None:
        """Make the sets hold at least every live session: what FLUSHALL or a new Redis took is put back."""
        with _translated():
            async with self._pipeline() as pipe:
                for session in live:
                    place = {session.id: session.expires_at.timestamp() * 1000}
                    pipe.zadd(self._live, place)
                    pipe.zadd(self._mine(session.account_id), place)
                await pipe.execute()


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the client's errors into ours."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise Unavailable("Redis") from error
