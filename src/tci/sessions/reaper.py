"""Ends what is over, and makes the record, Redis and what runs agree."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from tci.errors import ServiceError, SetupError, Unavailable
from tci.ids import random_text
from tci.sandbox.driver import SandboxDriver
from tci.sandbox.keepers import Keepers
from tci.sessions.opener import SessionOpener
from tci.sessions.runner import reason_of_death
from tci.sessions.service import SessionService
from tci.settings import Settings
from tci.storage.lease_store import LeaseStore
from tci.storage.session_store import EndReason, SessionStore

log = structlog.get_logger()

LEASE = "reaper"

LEASE_TTL = dt.timedelta(seconds=10)
"""How long nobody reaps after the owner has died."""

TEND_SECONDS = 1.0
"""How often sandboxes are looked for that have lost their keeper. It is a look into one directory."""


class Reaper:
    """Three loops: one ends expired sessions and one reconciles, both in one process at a time; one takes over."""

    def __init__(
        self,
        *,
        settings: Settings,
        driver: SandboxDriver,
        service: SessionService,
        opener: SessionOpener,
        keepers: Keepers,
        sessions: SessionStore,
        leases: LeaseStore,
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._service = service
        self._opener = opener
        self._keepers = keepers
        self._sessions = sessions
        self._leases = leases
        self._me = random_text(12)

    async def run_reap(self) -> None:
        """End expired sessions for ever, where this process has the lease; refill a Redis that was emptied."""

        async def reap() -> None:
            if await self._leases.hold(LEASE, self._me, ttl=LEASE_TTL):
                await self.reap()
                if not await self._leases.is_current():
                    await self.reconcile()

        await _repeat("reap", reap, self._settings.reap_interval_seconds)

    async def run_reconcile(self) -> None:
        """Reconcile for ever, where this process has the lease. The first pass was made before it was ready."""

        async def reconcile() -> None:
            await self._clear_ended()
            if await self._leases.hold(LEASE, self._me, ttl=LEASE_TTL):
                await self.reconcile()

        await asyncio.sleep(self._settings.reconcile_interval_seconds)
        await _repeat("reconcile", reconcile, self._settings.reconcile_interval_seconds)

    async def run_tend(self) -> None:
        """Take over what others have left, for ever."""
        await _repeat("tend", self.tend, TEND_SECONDS)

    async def let_go(self) -> None:
        """Let another process reap from now on."""
        try:
            await self._leases.let_go(LEASE, self._me)
        except Unavailable:
            log.warning("Redis is away: the reaper's lease was not given back")

    async def reap(self) -> None:
        """End every session whose time is over by Redis's clock."""
        for session_id in await self._leases.due():
            session = await self._sessions.get(session_id)
            bill = await self._sessions.bill(session_id)
            if session is None or bill is None:  # its opening was cut short by a crash, so no row was written
                await self._leases.abandon(session_id)
            elif session.is_live and session.expires_at > await self._leases.now():
                await self._leases.confirm(session, price_usd=bill.amount_usd)  # what its opener could not do
            else:
                await self._service.end(session, EndReason.EXPIRED)

    async def tend(self) -> None:
        """Become the keeper of sandboxes whose own has died, and stop being that of sandboxes that are gone."""
        for sandbox_id in self._keepers.take_abandoned():
            try:
                await self._adopt(sandbox_id)
            except BaseException:
                self._keepers.let_go(sandbox_id)  # for the next pass, or another process
                raise
        for sandbox_id in self._keepers.kept - self._opener.launching:
            if not self._directory(sandbox_id).exists():
                await self._opener.clear(sandbox_id)

    async def _adopt(self, sandbox_id: str) -> None:
        session = await self._sessions.find(sandbox_id)
        if session is None or not session.is_live:
            log.warning("Destroying orphan", sandbox_id=sandbox_id)
            await self._opener.clear(sandbox_id)
        elif session.answered_at is None:
            # Whoever opened it died before its caller heard its id: nobody will ever use it, and nobody pays.
            await self._service.end(session, EndReason.LOST)
        else:
            log.info("Taking over", session_id=session.id, sandbox_id=sandbox_id)
            await self._opener.take_over(session)

    async def reconcile(self) -> None:
        """Compare what is recorded with what runs and with Redis: lost sessions are ended, orphans destroyed."""
        # What runs, and what has a place, is looked at first: what is opened in between is then never seen as extra.
        running = await self._driver.list_sandboxes()
        launching = self._opener.launching  # now: what is recorded later in this pass is not in `live`
        places = await self._leases.places()
        live = await self._sessions.list_live()
        for session in live:
            status = await self._driver.inspect(session.sandbox_id)
            # Where a call is running, it sees the death itself and says more about it.
            if (status is None or not status.is_running) and not self._service.is_busy(session.id):
                await self._service.end(session, reason_of_death(status))
            elif status is not None:
                await self._opener.take_over(session)
        for sandbox_id in running - {session.sandbox_id for session in live} - launching:
            if self._keepers.keep(sandbox_id):  # or else another process is launching it
                log.warning("Destroying orphan", sandbox_id=sandbox_id)
                await self._opener.clear(sandbox_id)
        await self._leases.restore(await self._sessions.list_live())
        await self._free(places - {session.id for session in live})
        if not await self._leases.is_current():
            month = (await self._leases.now()).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            bills = await self._sessions.bills(since=month)
            await self._leases.recount(bills, month=month)
            log.info("Counted again what Redis had lost", bills=len(bills))

    async def _free(self, session_ids: set[str]) -> None:
        """Give back the places of sessions that are not live, which a crash or an outage left."""
        for session_id in session_ids:
            session = await self._sessions.get(session_id)
            if session is None:
                await self._leases.abandon(session_id)
            elif not session.is_live:
                await self._leases.release(session)

    async def _clear_ended(self) -> None:
        """Clear away what this process keeps although its session has ended."""
        kept = self._keepers.kept - self._opener.launching  # before the look: what is opened meanwhile is not in it
        for sandbox_id in kept - await self._sessions.live_sandboxes():
            await self._opener.clear(sandbox_id)

    async def end_all(self) -> None:
        """End every live session, so that nothing is left running behind."""
        failed = False
        for session in await self._sessions.list_live():
            try:
                await self._service.end(session, EndReason.SHUTDOWN)
            except ServiceError:
                failed = True
                log.exception("A session could not be ended", session_id=session.id)
        if failed:
            raise SetupError("Not every session could be ended; the log says which.")

    def _directory(self, sandbox_id: str) -> Path:
        return self._settings.run_dir / sandbox_id


async def _repeat(name: str, body: Callable[[], Awaitable[None]], interval: float) -> None:
    is_away = False
    while True:
        try:
            await body()
            is_away = False
        except Unavailable as error:
            if not is_away:  # said once: an outage may last
                log.warning("Background pass waits", loop=name, reason=str(error))
            is_away = True
        except Exception:
            # A loop that died would leave a server that answers and never ends a session.
            log.exception("Background pass failed", loop=name)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # redis-py swallows a cancellation that arrives while it reads; this loop would then never end.
            raise asyncio.CancelledError
        await asyncio.sleep(interval)
