"""Finds or opens a session, has its code run, and counts it."""

import asyncio
import datetime as dt
from collections.abc import Mapping

import structlog

from tci.errors import InvalidRequest, SessionNotFound, Unavailable
from tci.ids import is_session_id
from tci.kernel.client import KernelClient
from tci.sandbox.driver import SandboxDriver
from tci.sessions.opener import SessionOpener
from tci.sessions.runner import Runner
from tci.sessions.session import Execution
from tci.sessions.turnstile import Turnstile
from tci.settings import Settings
from tci.storage.account_store import Caller
from tci.storage.lease_store import LeaseStore
from tci.storage.session_store import EndReason, Session, SessionStore

log = structlog.get_logger()


class SessionService:
    """The one way to sessions, for the API and for the command line."""

    def __init__(
        self,
        *,
        settings: Settings,
        driver: SandboxDriver,
        sessions: SessionStore,
        leases: LeaseStore,
        opener: SessionOpener,
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._sessions = sessions
        self._leases = leases
        self._opener = opener
        self._kernels: dict[str, KernelClient] = {}
        self._turnstile = Turnstile(max_waiting=settings.max_waiting)
        self._runner = Runner(settings=settings, driver=driver, end=self.end)

    async def execute(
        self, caller: Caller, code: str, *, session_id: str | None, files: Mapping[str, bytes], timeout: float | None
    ) -> Execution:
        """Run code in the caller's session, or in a new one, after writing the files.

        Raises InvalidRequest, SessionNotFound, TooManyWaiting, and whatever opening a session raises; code that
        raises is an Execution. If it is cancelled, what it started is interrupted first.
        """
        timeout = self._checked(timeout)
        if session_id is None:
            session, kernel = await self._opener.open(caller, files)
            self._kernels[session.id] = kernel
            files = {}
        else:
            session = await self._find(caller, session_id)
        try:
            # One run at a time in a session, in order of arrival; the time limit then counts from a run's own start.
            async with self._turnstile.turn(session.id):
                if session_id is not None:
                    session = await self._find(caller, session_id)  # it may have ended while this call waited
                kernel = self._kernels.get(session.id) or self._connect(session)
                try:
                    result = await self._runner.run(session, kernel, code, files=files, timeout=timeout)
                except asyncio.CancelledError:  # it ran all the same
                    await asyncio.shield(self._count(session))
                    raise
            count = await self._count(session)
        except asyncio.CancelledError:
            if session_id is None:  # whoever asked for it left before hearing its id
                await asyncio.shield(self.end(session, EndReason.CLIENT_LEFT))
            raise
        milliseconds = round(result.duration.total_seconds() * 1000)
        log.info("Executed", session_id=session.id, verdict=result.verdict, duration_ms=milliseconds)
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

    async def _count(self, session: Session) -> int:
        return await self._sessions.count_execution(session.id, dt.datetime.now(dt.UTC))

    def _checked(self, timeout: float | None) -> float:
        if timeout is None:
            return self._settings.timeout_seconds
        if timeout > self._settings.max_timeout_seconds:
            limit = self._settings.max_timeout_seconds
            raise InvalidRequest(f"timeout: must be at most {limit:g} seconds on this server", param="timeout")
        return timeout

    async def list_sessions(self, caller: Caller) -> list[Session]:
        """Return the caller's live sessions, newest first."""
        now = await self._leases.now()
        found = await self._sessions.list_live(account_id=caller.account_id)
        return [session for session in found if session.expires_at > now]

    def is_busy(self, session_id: str) -> bool:
        """Whether a call of this process runs or waits in the session."""
        return self._turnstile.is_busy(session_id)

    async def end(self, session: Session, reason: EndReason) -> None:
        """End a session and its sandbox; does nothing if it has ended."""
        if await self._sessions.end(session.id, reason):
            log.info("Ended session", session_id=session.id, account=session.account, reason=reason.name.lower())
        self._forget(session.id)
        self._opener.close_gate(session.sandbox_id)
        await self._driver.destroy(session.sandbox_id)
        try:
            await self._leases.release(session.id, account_id=session.account_id)
        except Unavailable:
            # Its place is given back when its time is over; what matters is that its sandbox is gone.
            log.warning("The place of an ended session was not given back", session_id=session.id)

    def close(self) -> None:
        """Drop every connection; the sessions go on."""
        for session_id in list(self._kernels):
            self._forget(session_id)

    async def _find(self, caller: Caller, session_id: str) -> Session:
        # What can't be an id is not looked up: PostgreSQL refuses a NUL, for one.
        session = await self._sessions.get(session_id) if is_session_id(session_id) else None
        if session is None or session.account_id != caller.account_id:
            raise SessionNotFound(session_id)
        if not session.is_live:
            raise SessionNotFound(session_id, reason=session.end_reason)
        if session.expires_at <= await self._leases.now():
            raise SessionNotFound(session_id, reason=EndReason.EXPIRED)
        return session

    def _connect(self, session: Session) -> KernelClient:
        kernel = self._opener.connect(session.sandbox_id, session.kernel_key)
        self._kernels[session.id] = kernel
        return kernel

    def _forget(self, session_id: str) -> None:
        if kernel := self._kernels.pop(session_id, None):
            kernel.close()
