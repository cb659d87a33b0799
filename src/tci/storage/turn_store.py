"""Whose turn it is in each session, in Redis: calls of one session are served one at a time, whoever serves them."""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from tci.ids import random_text
from tci.storage.redis_client import translated

PATIENCE = dt.timedelta(seconds=15)
"""A ticket that nobody has shown for so long was a dead process's."""

SHOW = """
local queue, shown, server, live = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ticket, patience, most, me, session = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
for _, dead in ipairs(redis.call('ZRANGE', shown, '-inf', '(' .. (ms - patience), 'BYSCORE')) do
  redis.call('ZREM', queue, dead)
  redis.call('ZREM', shown, dead)
end
if not redis.call('ZSCORE', queue, ticket) then
  if most >= 0 and redis.call('ZCARD', queue) > most then return {-1, ms, 0} end
  local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')
  redis.call('ZADD', queue, last[2] and last[2] + 1 or 0, ticket)
end
redis.call('ZADD', shown, ms, ticket)
redis.call('PEXPIRE', queue, 2 * patience)
redis.call('PEXPIRE', shown, 2 * patience)
local before = redis.call('ZRANK', queue, ticket)
if before > 0 then return {before, ms, 0} end
if ARGV[6] == '0' then return {0, ms, 0} end
local is_ours = redis.call('GET', server) == me and redis.call('ZSCORE', live, session)
redis.call('SET', server, me, 'PX', 40 * patience)
return {0, ms, is_ours and 1 or 0}
"""
"""Takes a ticket, or shows it again.

Returns how many are before it, or -1 if too many wait; Redis's clock; and, once none is before it, whether the session
is live and this process served it last. That is written down then, and so told once: not to
whoever only keeps the ticket.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ticket stands."""

    before: int | None
    """Calls that come first; None: the queue is full and the ticket was not taken."""
    now: dt.datetime
    """The moment by Redis's clock."""
    is_ours: bool = False
    """Whether the session is live, and nobody but this process has served it since this process did."""


class TurnStore:
    """One queue of tickets for each session that has any call."""

    def __init__(self, redis: Redis, *, deployment: str) -> None:
        self._redis = redis
        self._prefix = f"tci:{deployment}:turn"
        self._live = f"tci:{deployment}:sessions"
        self._me = random_text(12)
        self._show = redis.register_script(SHOW)

    def _keys(self, session_id: str) -> list[str]:
        return [f"{self._prefix}:{session_id}", f"{self._prefix}:{session_id}:shown"]

    async def keep(self, session_id: str, ticket: str) -> None:
        """Show a ticket, which keeps it, and no more: whose call it is will look for itself. Raises Unavailable."""
        await self._shown(session_id, ticket, most=-1, is_call=False)

    async def show(self, session_id: str, ticket: str, *, max_waiting: int | None = None) -> Place:
        """Take a ticket, or show one again, which keeps it; raises Unavailable.

        A ticket that is new is refused where more than `max_waiting` are there; None: it is not new, and kept anyway.
        """
        most = -1 if max_waiting is None else max_waiting
        before, ms, is_ours = await self._shown(session_id, ticket, most=most, is_call=True)
        return Place(None if before < 0 else before, dt.datetime.fromtimestamp(ms / 1000, dt.UTC), bool(is_ours))

    async def _shown(self, session_id: str, ticket: str, *, most: int, is_call: bool) -> tuple[int, int, int]:
        with translated():
            before, ms, is_ours = await self._show(
                keys=[*self._keys(session_id), f"{self._prefix}:{session_id}:server", self._live],
                args=[ticket, int(PATIENCE.total_seconds() * 1000), most, self._me, session_id, int(is_call)],
            )
        return before, ms, is_ours

    async def give_back(self, session_id: str, tickets: Iterable[str]) -> None:
        """Let the next one pass."""
        with translated():
            # No transaction: who looks between the two is served, and a ticket that is only shown is nobody's soon.
            pipe: Any = self._redis.pipeline(transaction=False)  # its methods are typed as if each had to be awaited
            async with pipe:
                for key in self._keys(session_id):
                    pipe.zrem(key, *tickets)
                await pipe.execute()
