"""Lets the calls of one session through one at a time, in order of arrival, and turns away those beyond a limit."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from tci.errors import TooManyWaiting, Unavailable
from tci.ids import random_text
from tci.stages import Stage
from tci.storage.turn_store import PATIENCE, Place, TurnStore

LOOK_SECONDS = 0.01, 0.1
"""How often a call looks whether those of other processes are done: at first, and after some time."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A call's turn in a session."""

    now: dt.datetime
    """The moment by Redis's clock; while Redis is away, by this machine's."""
    has_waited: bool
    """Whether anything may have happened in the session since the call came."""
    is_ours: bool = False
    """Whether the session is live, and what this process knows of it is all that there is to know."""


@dataclass(slots=True)
class Queue:
    """The calls of this process in one session."""

    arrival: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a ticket is taken, so that tickets have the order of arrival."""
    service: asyncio.Lock = field(default_factory=asyncio.Lock)
    tickets: list[str] = field(default_factory=list)
    present: int = 0


class Turnstile:
    """One queue for each session that has any call: first among the calls of this process, then among all.

    While Redis is away the first must do: the kernel itself runs one thing at a time, only the order is lost.
    """

    def __init__(self, turns: TurnStore, *, max_waiting: int) -> None:
        self._turns = turns
        self._max_waiting = max_waiting
        self._queues: dict[str, Queue] = {}

    def is_busy(self, session_id: str) -> bool:
        """Whether any call of this process is in the session's queue or served."""
        return session_id in self._queues

    @asynccontextmanager
    async def turn(self, session_id: str, *, is_new: bool = False) -> AsyncIterator[Turn]:
        """Wait for a turn in the session; raises TooManyWaiting at once if the queue is full.

        Of a session that is new nobody else knows, so nobody else is asked.
        """
        async with AsyncExitStack() as stack:
            with Stage("turn"):
                turn = await stack.enter_async_context(self._turn(session_id, is_new=is_new))
            yield turn

    @asynccontextmanager
    async def _turn(self, session_id: str, *, is_new: bool) -> AsyncIterator[Turn]:
        queue = self._queues.setdefault(session_id, Queue())
        if queue.present > self._max_waiting:  # one is served, the others wait
            raise TooManyWaiting(self._max_waiting)
        queue.present += 1
        ticket = random_text(16)
        try:
            async with queue.arrival:
                place = None if is_new else await self._take(queue, session_id, ticket)
            # Nothing is awaited between the two locks, so the order stays that of the tickets.
            has_waited = queue.service.locked() or bool(place and place.before)
            async with queue.service:
                if has_waited and place:
                    place = await self._wait(session_id, ticket)
                if place is None:
                    yield Turn(dt.datetime.now(dt.UTC), has_waited)
                else:
                    yield Turn(place.now, has_waited, place.is_ours)
                # Before the next one of this process looks.
                await asyncio.shield(self._give_back(queue, session_id, ticket))
        finally:
            await asyncio.shield(self._give_back(queue, session_id, ticket))
            queue.present -= 1
            if not queue.present:
                self._queues.pop(session_id, None)

    async def run(self) -> None:
        """Show the tickets of this process for ever, so that they are not taken for a dead one's."""
        while True:
            await asyncio.sleep(PATIENCE.total_seconds() / 4)
            tickets = [(name, queue, ticket) for name, queue in self._queues.items() for ticket in queue.tickets]
            for session_id, queue, ticket in tickets:
                if ticket in queue.tickets:  # else it has been given back meanwhile, and to show it would take it again
                    with contextlib.suppress(Unavailable):
                        await self._turns.keep(session_id, ticket)

    async def _take(self, queue: Queue, session_id: str, ticket: str) -> Place | None:
        # First, so that it is given back whatever comes: a call that is cancelled just now may have taken it.
        queue.tickets.append(ticket)
        showing = asyncio.ensure_future(self._turns.show(session_id, ticket, max_waiting=self._max_waiting))
        try:
            place = await asyncio.shield(showing)
        except asyncio.CancelledError:  # it must be taken before it can be given back
            await asyncio.wait({showing})
            raise
        except Unavailable:
            queue.tickets.remove(ticket)
            return None
        if place.before is None:
            queue.tickets.remove(ticket)
            raise TooManyWaiting(self._max_waiting)
        return place

    async def _wait(self, session_id: str, ticket: str) -> Place | None:
        """Return once no ticket is before this one; None if Redis has gone."""
        pause, longest = LOOK_SECONDS
        while True:
            try:
                place = await self._turns.show(session_id, ticket)
            except Unavailable:
                return None
            if not place.before:
                return place
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _give_back(self, queue: Queue, session_id: str, ticket: str) -> None:
        if ticket not in queue.tickets:
            return
        queue.tickets.remove(ticket)
        with contextlib.suppress(Unavailable):  # then it is nobody's soon
            await self._turns.give_back(session_id, [ticket])
