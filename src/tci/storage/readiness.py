"""Whether the service can serve: its loops run, and the servers that it stands on answer."""

from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tci.errors import Unavailable
from tci.loops import Loops
from tci.storage.database import reading
from tci.storage.redis_client import translated


class Readiness:
    """Asks them."""

    def __init__(
        self, engine: AsyncEngine, redis: Redis, *, loops: Loops, has_sandboxes: Callable[[], Awaitable[bool]]
    ) -> None:
        self._engine = engine
        self._redis = redis
        self._loops = loops
        self._has_sandboxes = has_sandboxes

    async def look(self) -> dict[str, str]:
        """Return how each is; raises LoopStopped, or Unavailable where nothing can be served.

        Without Redis, or the engine, sessions that are open go on, so a service without them is to be asked.
        """
        self._loops.require_running()
        async with reading(self._engine) as db:
            await db.execute(text("SELECT 1"))
        engine = await self._has_sandboxes()
        return {"database": "ok", "redis": await self._look_at_redis(), "engine": "ok" if engine else "away"}

    async def _look_at_redis(self) -> str:
        try:
            with translated():
                await self._redis.ping()
        except Unavailable:
            return "away"
        return "ok"
