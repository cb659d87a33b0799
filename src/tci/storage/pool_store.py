"""The warm pool in Redis, shared by all processes: sandboxes that nobody has been given yet."""

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from tci.storage.redis_client import translated


@dataclass(frozen=True, slots=True)
class Pooled:
    """A sandbox whose kernel waits for its first code."""

    sandbox_id: str
    kernel_key: str
    make: str
    """What it was made from: those of other settings, or of another version, are not given to anyone."""
    ready_at: dt.datetime


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """How the pool does, since Redis was last emptied."""

    level: int
    hits: int
    misses: int
    filled: int
    failed: int
    target: int
    """How many are to be ready, as whoever fills it last saw it."""


class PoolStore:
    """A sorted set by age, and counters."""

    def __init__(self, redis: Redis, *, deployment: str) -> None:
        self._redis = redis
        self._pool = f"tci:{deployment}:pool"
        self._figures = f"tci:{deployment}:pool:figures"

    def _pipeline(self) -> Any:
        # Its methods are typed as if each had to be awaited; here they only queue.
        return self._redis.pipeline()

    async def put(self, pooled: Pooled) -> None:
        """Let anybody take a sandbox from now on."""
        with translated():
            async with self._pipeline() as pipe:
                pipe.zadd(self._pool, {_dump(pooled): pooled.ready_at.timestamp()})
                pipe.hincrby(self._figures, "filled", 1)
                await pipe.execute()

    async def take(self) -> Pooled | None:
        """Return the oldest sandbox, which is the caller's then, or None if there is none."""
        with translated():
            found = await self._redis.zpopmin(self._pool)
        return _load(*found[0]) if found else None

    async def remove(self, pooled: Pooled) -> bool:
        """Take a certain sandbox; return whether it was still there."""
        with translated():
            return bool(await self._redis.zrem(self._pool, _dump(pooled)))

    async def list(self) -> list[Pooled]:
        """Return all, oldest first."""
        with translated():
            found = await self._redis.zrange(self._pool, 0, -1, withscores=True)
        return [_load(*entry) for entry in found]

    async def count(self, figure: str) -> None:
        """Count a hit, a miss or a failure."""
        with translated():
            await self._redis.hincrby(self._figures, figure, 1)

    async def aim(self, target: int) -> None:
        """Note how many are to be ready."""
        with translated():
            await self._redis.hset(self._figures, "target", str(target))

    async def figures(self) -> PoolFigures:
        """Return how the pool does."""
        names = ("hits", "misses", "filled", "failed", "target")
        with translated():
            async with self._pipeline() as pipe:
                pipe.zcard(self._pool)
                pipe.hmget(self._figures, names)
                level, counts = await pipe.execute()
        return PoolFigures(level, *(int(count or 0) for count in counts))


def _dump(pooled: Pooled) -> str:
    return json.dumps([pooled.sandbox_id, pooled.kernel_key, pooled.make])


def _load(member: bytes, ready_at: float) -> Pooled:
    sandbox_id, kernel_key, make = json.loads(member)
    return Pooled(sandbox_id, kernel_key, make, dt.datetime.fromtimestamp(ready_at, dt.UTC))
