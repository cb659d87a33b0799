"""Writes that must not be lost while the database or Redis is away: they are made as soon as it is back."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from tci.errors import Unavailable

log = structlog.get_logger()

Result = TypeVar("Result")

RETRY_SECONDS = 0.5

LAST_SECONDS = 5.0
"""How long a service that stops waits for what is away."""


class Outbox:
    """What this process has still to write. Each write may be made twice, since the answer to the first can be lost."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], Awaitable[object]]] = deque()

    async def write(self, write: Callable[[], Awaitable[Result]], *, patience_seconds: float) -> Result | None:
        """Make a write and return what it does; None if it stayed impossible: it is made later then."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience_seconds
        while True:
            try:
                return await write()
            except Unavailable as error:
                reason = str(error)
                if loop.time() >= give_up:
                    break
            await asyncio.sleep(RETRY_SECONDS)
        self._waiting.append(write)
        log.warning("A write waits", reason=reason, waiting=len(self._waiting))
        return None

    async def run(self) -> None:
        """Make the writes that wait, for ever."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            await self._deliver()

    async def close(self) -> None:
        """Make the last writes; says in the log what could not be made."""
        give_up = asyncio.get_running_loop().time() + LAST_SECONDS
        while self._waiting and asyncio.get_running_loop().time() < give_up:
            await self._deliver()
            await asyncio.sleep(RETRY_SECONDS if self._waiting else 0)
        if self._waiting:
            log.error("Writes are lost: what they wait for stayed away", lost=len(self._waiting))

    async def _deliver(self) -> None:
        """Try each write once, in their order; those for which it is too early stay."""
        for _ in range(len(self._waiting)):
            write = self._waiting.popleft()
            try:
                await write()
            except Unavailable:
                self._waiting.append(write)
            except Exception:
                log.exception("A write that had waited failed")
