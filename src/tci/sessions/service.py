"""Finds or opens a session, has its code run, and counts it."""

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping

import structlog

from tci.errors import InvalidRequest, ServiceError, SessionNotFound, Unavailable
from tci.ids import is_session_id
from tci.sandbox.driver import SandboxDriver
from tci.sessions.connections import Connections
from tci.sessions.opener import SessionOpener
from tci.sessions.outbox import Outbox
from tci.sessions.runner import Result, Runner
from tci.sessions.sandboxes import Sandboxes
from tci.sessions.session import Execution
from tci.sessions.turnstile import Turnstile
from tci.settings import Settings
from tci.storage.account_store import Caller
from tci.storage.lease_store import LeaseStore
from tci.storage.session_store import OUR_FAULT, EndReason, Session, SessionStore
from tci.storage.turn_store import TurnStore

log = structlog.get_logger()

RECORD_SECONDS = 10.0
"""How long an answer is held back until its execution is recorded. A database that restarts is away for less."""

SWEEP_SECONDS = 15.0
"""How often idle connections are looked for."""


class SessionService:
    """The one way to sessions, for the API and for the command line."""

    def __init__(
        self,
        *,
        settings: Settings,
        driver: SandboxDriver,
        sessions: SessionStore,
        leases: LeaseStore,
        turns: TurnStore,
        sandboxes: Sandboxes,
        opener: SessionOpener,
        outbox: Outbox,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._leases = leases
        self._sandboxes = sandboxes
        self._opener = opener
        self._outbox = outbox
        self._connections = Connections(lambda session: sandboxes.connect(session.sandbox_id, session.kernel_key))
        self.turnstile = Turnstile(turns, max_waiting=settings.max_waiting)
        self._runner = Runner(
            settings=settings,
            driver=driver,
            end=self.end,
            is_stopping=lambda: self.is_stopping(),  # noqa: PLW0108 (it is set later)
        )
        self._running: set[asyncio.Task[object]] = set()
        self.is_stopping: Callable[[], bool] = lambda: False
        """Whether what is cancelled is so by a stop of the service, and not since its caller left."""

    async def execute(
        self, caller: Caller, code: str, *, session_id: str | None, files: Mapping[str, bytes], timeout: float | None
    ) -> Execution:
        """Run code in the caller's session, or in a new one, after writing the files.

        Raises InvalidRequest, SessionNotFound, TooManyWaiting, QuotaReached, and whatever opening a session raises;
        code that raises is an Execution. If it is cancelled, what it started is interrupted first; while the service
        stops, that is an Execution too, and else CancelledError.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a coroutine that runs is in one)
        self._running.add(task)
        try:
            timeout = self._checked(timeout)
            await self._leases.require_rate(caller)
            if session_id is None:
                return await self._execute_in_new(caller, code, files, timeout)
            return await self._execute_in(caller, session_id, code, files, timeout)
        finally:
            self._running.discard(task)

    async def _execute_in_new(self, caller: Caller, code: str, files: Mapping[str, bytes], timeout: float) -> Execution:
        session, kernel = await self._opener.open(caller, files)
        self._connections.put(session, kernel)
        try:
            async with self.turnstile.turn(session.id, is_new=True):
                return await self._run(session, code, {}, timeout)
        except asyncio.CancelledError:  # whoever asked for it will not hear its id
            await asyncio.shield(self.end(session, EndReason.SHUTDOWN if self.is_stopping() else EndReason.CLIENT_LEFT))
            raise
        except ServiceError:  # nobody will hear its id
            await asyncio.shield(self.end(session, EndReason.FAILED))
            raise

    async def _execute_in(
        self, caller: Caller, session_id: str, code: str, files: Mapping[str, bytes], timeout: float
    ) -> Execution:
        known = self._connections.known(session_id)
        if known is None or known.account_id != caller.account_id:
            known = await self._find(caller, session_id)  # a stranger does not queue
        # One run at a time in a session, in order of arrival; the time limit then counts from a run's own start.
        async with self.turnstile.turn(session_id) as turn:
            session = self._connections.known(session_id) if turn.is_ours else None
            # Else another process may have served or ended it meanwhile.
            session = session or await self._find(caller, session_id)
            if session.expires_at <= turn.now:
                raise SessionNotFound(session_id, reason=EndReason.EXPIRED)
            return await self._run(session, code, files, timeout)

    async def _run(self, session: Session, code: str, files: Mapping[str, bytes], timeout: float) -> Execution:
        kernel = self._connections.get(session)
        # Counted while the kernel works, which takes longer; but to count a first run says that it was answered.
        counting = None if session.answered_at is None else asyncio.ensure_future(self._count(session))
        try:
            result = await self._runner.run(session, kernel, code, files=files, timeout=timeout)
            count = await (counting or self._count(session))
        except BaseException:
            if counting is not None:  # whatever came of the run, it ran
                await asyncio.wait({counting})
            self._connections.drop(session.id)  # what is known of the session is behind by this count
            raise
        self._connections.has_followed(session, count)
        milliseconds = round(result.duration.total_seconds() * 1000)
        log.info("Executed", session_id=session.id, verdict=result.verdict, duration_ms=milliseconds)
        return _execution(session, result, count)

    async def _count(self, session: Session) -> int:
        """Record an execution and return how many there were; held back, for some time, by a database that is away."""
        at, count = dt.datetime.now(dt.UTC), session.execute_count + 1
        try:
            return await self._sessions.count_execution(session.id, at)
        except Unavailable:  # whether it was counted is not known
            recorded = await self._outbox.write(
                lambda: self._sessions.count_at_least(session.id, count, at), patience_seconds=RECORD_SECONDS
            )
        return recorded or count

    def _checked(self, timeout: float | None) -> float:
        if timeout is None:
            return self._settings.timeout_seconds
        if timeout > self._settings.max_timeout_seconds:
            limit = self._settings.max_timeout_seconds
            raise InvalidRequest(f"timeout: must be at most {limit:g} seconds on this server", param="timeout")
        return timeout

    async def list_sessions(self, caller: Caller) -> list[Session]:
        """Return the caller's live sessions, newest first."""
        now = await self._leases.now_or_ours()
        found = await self._sessions.list_live(account_id=caller.account_id)
        return [session for session in found if session.expires_at > now]

    def is_busy(self, session_id: str) -> bool:
        """Whether a call of this process runs or waits in the session."""
        return self.turnstile.is_busy(session_id)

    async def end(self, session: Session, reason: EndReason) -> EndReason:
        """End a session and its sandbox, and return why it ended: if it had already, the first reason stands."""
        recorded = await self._outbox.write(lambda: self._sessions.end(session.id, reason), patience_seconds=0)
        self._connections.drop(session.id)
        await self._sandboxes.clear(session.sandbox_id)
        log.info("Ended session", session_id=session.id, account=session.account, reason=(recorded or reason).name)
        # Its place may be given back later: what matters is that its sandbox is gone.
        await self._outbox.write(lambda: self._give_back(session, reason), patience_seconds=0)
        return recorded or reason

    async def _give_back(self, session: Session, reason: EndReason) -> None:
        await self._leases.release(session)
        if reason in OUR_FAULT and (bill := await self._sessions.bill(session.id)) and bill.is_waived:
            await self._leases.count(bill)

    async def run_sweep(self) -> None:
        """Drop idle connections for ever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._connections.drop_idle(self.is_busy)

    async def settle(self) -> None:
        """Wait until what was cancelled at a stop has been interrupted."""
        if self._running:
            await asyncio.wait(self._running, timeout=2 * self._settings.grace_seconds + 1)

    def close(self) -> None:
        """Drop every connection; the sessions go on."""
        self._connections.close()

    async def _find(self, caller: Caller, session_id: str) -> Session:
        # What can't be an id is not looked up: PostgreSQL refuses a NUL, for one.
        session = await self._sessions.get(session_id) if is_session_id(session_id) else None
        if session is None or session.account_id != caller.account_id:
            raise SessionNotFound(session_id)
        if not session.is_live:
            raise SessionNotFound(session_id, reason=session.end_reason)
        return session


def _execution(session: Session, result: Result, count: int) -> Execution:
    return Execution(
        session_id=session.id,
        outputs=result.outputs,
        verdict=result.verdict,
        duration=result.duration,
        cpu=result.cpu,
        peak_memory_bytes=result.peak_memory_bytes,
        execute_count=count,
        expires_at=session.expires_at,
    )
