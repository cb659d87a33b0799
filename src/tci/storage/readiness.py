"""Whether the servers that the service stands on answer."""

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tci.errors import Unavailable
from tci.storage.database import reading
from tci.storage.redis_client import translated


class Readiness:
    """Asks them."""

    def __init__(self, engine: AsyncEngine, redis: Redis) -> None:
        self._engine = engine
        self._redis = redis

    async def look(self) -> dict[str, str]:
        """Return how each is; raises Unavailable where nothing can be served.

        Without Redis sessions that are open go on, so a service without it is to be asked.
        """
        async with reading(self._engine) as db:
            await db.execute(text("SELECT 1"))
        try:
            with translated():
                await self._redis.ping()
        except Unavailable:
            return {"database": "ok", "redis": "away"}
        return {"database": "ok", "redis": "ok"}
