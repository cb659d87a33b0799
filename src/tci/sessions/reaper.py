"""Ends what is over and makes the record and what runs agree."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from tci.errors import ServiceError, SetupError
from tci.sandbox.driver import SandboxDriver
from tci.sessions.opener import SessionOpener
from tci.sessions.runner import reason_of_death
from tci.sessions.service import SessionService
from tci.settings import Settings
from tci.storage.lease_store import LeaseStore
from tci.storage.session_store import EndReason, SessionStore

log = structlog.get_logger()


class Reaper:
    """Two loops: one ends expired sessions, one reconciles."""

    def __init__(
        self,
        *,
        settings: Settings,
        driver: SandboxDriver,
        service: SessionService,
        opener: SessionOpener,
        sessions: SessionStore,
        leases: LeaseStore,
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._service = service
        self._opener = opener
        self._sessions = sessions
        self._leases = leases

    async def run_reap(self) -> None:
        """End expired sessions for ever."""
        await _repeat("reap", self.reap, self._settings.reap_interval_seconds)

    async def run_reconcile(self) -> None:
        """Reconcile for ever. The first pass was made before the service was ready."""
        await asyncio.sleep(self._settings.reconcile_interval_seconds)
        await _repeat("reconcile", self.reconcile, self._settings.reconcile_interval_seconds)

    async def reap(self) -> None:
        """End every session whose time is over by Redis's clock."""
        for session_id in await self._leases.due():
            session = await self._sessions.get(session_id)
            if session is None:  # its opening was cut short by a crash, so no row was written
                await self._leases.forget(session_id)
            else:
                await self._service.end(session, EndReason.EXPIRED)

    async def reconcile(self) -> None:
        """Compare what is recorded with what runs: lost sessions are ended, orphans destroyed, Redis refilled."""
        # What runs is looked at first: a sandbox that is launched in between is then never seen as an orphan.
        running = await self._driver.list_sandboxes()
        launching = self._opener.launching
        live = await self._sessions.list_live()
        for session in live:
            status = await self._driver.inspect(session.sandbox_id)
            # Where a call is running, it sees the death itself and says more about it.
            if (status is None or not status.is_running) and not self._service.is_busy(session.id):
                await self._service.end(session, reason_of_death(status))
            elif status is not None:
                await self._opener.reopen_gate(session)
        orphans = running - launching - {session.sandbox_id for session in live}
        for sandbox_id in orphans:
            log.warning("Destroying orphan", sandbox_id=sandbox_id)
            await self._driver.destroy(sandbox_id)
        await self._leases.rebuild(await self._sessions.list_live())

    async def end_all(self) -> None:
        """End every live session: the embedded pair leaves nothing running behind."""
        failed = False
        for session in await self._sessions.list_live():
            try:
                await self._service.end(session, EndReason.SHUTDOWN)
            except ServiceError:
                failed = True
                log.exception("A session could not be ended", session_id=session.id)
        if failed:
            raise SetupError("Not every session could be ended; the log says which.")


async def _repeat(name: str, body: Callable[[], Awaitable[None]], interval: float) -> None:
    while True:
        try:
            await body()
        except Exception:
            # A loop that died would leave a server that answers and never ends a session.
            log.exception("Background pass failed", loop=name)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # redis-py swallows a cancellation that arrives while it reads; this loop would then never end.
            raise asyncio.CancelledError
        await asyncio.sleep(interval)
