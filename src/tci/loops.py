"""The background loops of a process, by name. One that ends is missed: the service is not ready any more."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog

from tci.errors import LoopStopped

log = structlog.get_logger()


class Loops:
    """Runs them, and knows which of them have ended."""

    def __init__(self) -> None:
        self._ended: set[str] = set()
        self._is_stopping = False

    @asynccontextmanager
    async def running(self, loops: Mapping[str, Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        """Run loops for as long as the block lasts.

        Not in a TaskGroup: there the end of one would end the others, and what is open would be closed under a server
        that goes on answering.
        """
        tasks = {asyncio.create_task(loop, name=name) for name, loop in loops.items()}
        for task in tasks:
            task.add_done_callback(self._note)
        try:
            yield
        finally:
            self._is_stopping = True
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _note(self, task: asyncio.Task[None]) -> None:
        if self._is_stopping:
            return
        error = None if task.cancelled() else task.exception()
        self._ended.add(task.get_name())
        log.critical("A background loop has ended: not ready any more", loop=task.get_name(), exc_info=error)

    def require_running(self) -> None:
        """Raise LoopStopped if one has ended."""
        if self._ended:
            raise LoopStopped(", ".join(sorted(self._ended)))
