"""Lets the calls of one session through one at a time, in order of arrival, and turns away those beyond a limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tci.errors import TooManyWaiting


class Turnstile:
    """One queue for each session that has any call."""

    def __init__(self, *, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._queues: dict[str, asyncio.Lock] = {}
        self._present: dict[str, int] = {}

    def is_busy(self, session_id: str) -> bool:
        """Whether any call is in the session's queue or served."""
        return session_id in self._present

    @asynccontextmanager
    async def turn(self, session_id: str) -> AsyncIterator[None]:
        """Wait for a turn in the session; raises TooManyWaiting at once if the queue is full."""
        present = self._present.get(session_id, 0)
        if present > self._max_waiting:  # one is served, the others wait
            raise TooManyWaiting(self._max_waiting)
        self._present[session_id] = present + 1
        try:
            async with self._queues.setdefault(session_id, asyncio.Lock()):
                yield
        finally:
            self._present[session_id] -= 1
            if not self._present[session_id]:
                del self._present[session_id], self._queues[session_id]
