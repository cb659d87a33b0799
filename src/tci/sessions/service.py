"""Finds or opens a session, runs code in its kernel, and says how that ended."""

import asyncio
import datetime as dt
import time
from collections.abc import Mapping

import structlog

from tci.errors import KernelFailed, SessionNotFound
from tci.kernel.client import KernelClient
from tci.kernel.outputs import Output, OutputBuffer, OutputType
from tci.sandbox.driver import SandboxDriver, SandboxStatus
from tci.sessions.opener import SessionOpener
from tci.sessions.session import Execution, Verdict
from tci.settings import Settings
from tci.storage.account_store import Caller
from tci.storage.lease_store import LeaseStore
from tci.storage.session_store import EndReason, Session, SessionStore

log = structlog.get_logger()

WATCH_SECONDS = 0.5
"""How often the sandbox of a running execution is looked at: its death is noticed within two seconds."""


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
        self._turns: dict[str, asyncio.Lock] = {}

    async def execute(
        self, caller: Caller, code: str, *, session_id: str | None, files: Mapping[str, bytes]
    ) -> Execution:
        """Run code in the caller's session, or in a new one, after writing the files.

        Raises SessionNotFound, and whatever opening a session raises; code that raises is an Execution.
        """
        if session_id is None:
            session, kernel = await self._opener.open(caller, files)
            self._kernels[session.id] = kernel
            files = {}
        else:
            session = await self._find(caller, session_id)
        # One run at a time in a session, in order of arrival; the time limit then counts from a run's own start.
        async with self._turns.setdefault(session.id, asyncio.Lock()):
            if session_id is not None:
                session = await self._find(caller, session_id)  # it may have ended while this call waited
            kernel = self._kernels.get(session.id) or self._connect(session)
            if files:
                await kernel.put(files)
            return await self._run(session, kernel, code)

    async def list_sessions(self, caller: Caller) -> list[Session]:
        """Return the caller's live sessions, newest first."""
        now = await self._leases.now()
        found = await self._sessions.list_live(account_id=caller.account_id)
        return [session for session in found if session.expires_at > now]

    async def end(self, session: Session, reason: EndReason) -> None:
        """End a session and its sandbox; does nothing if it has ended."""
        if await self._sessions.end(session.id, reason):
            log.info("Ended session", session_id=session.id, account=session.account, reason=reason.name.lower())
        self._forget(session.id)
        await self._driver.destroy(session.sandbox_id)
        await self._leases.release(session.id, account_id=session.account_id)

    def close(self) -> None:
        """Drop every connection; the sessions go on."""
        for session_id in list(self._kernels):
            self._forget(session_id)

    async def _find(self, caller: Caller, session_id: str) -> Session:
        session = await self._sessions.get(session_id)
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
        self._turns.pop(session_id, None)
        if kernel := self._kernels.pop(session_id, None):
            kernel.close()

    async def _run(self, session: Session, kernel: KernelClient, code: str) -> Execution:
        started = time.perf_counter()
        outputs = OutputBuffer()
        run = asyncio.create_task(kernel.execute(code, outputs), name=f"execute in {session.id}")
        try:
            verdict = await self._watch(session, kernel, run, outputs)
        finally:
            run.cancel()
        duration = dt.timedelta(seconds=time.perf_counter() - started)
        count = await self._sessions.count_execution(session.id, dt.datetime.now(dt.UTC))
        log.info("Executed", session_id=session.id, verdict=verdict, duration_ms=round(duration.total_seconds() * 1000))
        return Execution(
            session_id=session.id,
            outputs=outputs.outputs(),
            verdict=verdict,
            duration=duration,
            execute_count=count,
            expires_at=session.expires_at,
        )

    async def _watch(
        self, session: Session, kernel: KernelClient, run: asyncio.Task[bool], outputs: OutputBuffer
    ) -> Verdict:
        """Wait for the run to end, its sandbox to die or its time to be over, and say which it was."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.timeout_seconds
        while True:
            left = deadline - loop.time()
            if left <= 0:
                return await self._stop(session, kernel, run, outputs)
            await asyncio.wait({run}, timeout=min(WATCH_SECONDS, left))
            if run.done():
                return Verdict.OK if run.result() else Verdict.ERROR
            status = await self._driver.inspect(session.sandbox_id)
            if status is None or not status.is_running:
                return await self._bury(session, status, outputs)

    async def _stop(
        self, session: Session, kernel: KernelClient, run: asyncio.Task[bool], outputs: OutputBuffer
    ) -> Verdict:
        """Interrupt a run whose time is over; one that goes on after the grace period loses its sandbox."""
        limit = f"TimeoutError: the execution ran longer than its limit of {self._settings.timeout_seconds:g} seconds"
        try:
            async with asyncio.timeout(self._settings.grace_seconds):
                await kernel.interrupt()
                await asyncio.shield(run)
            outputs.add(Output(OutputType.ERROR, f"{limit} and was interrupted."))
        except (TimeoutError, KernelFailed):
            await self.end(session, EndReason.TIMEOUT)
            outputs.add(Output(OutputType.ERROR, f"{limit}, did not stop, and its session was ended."))
        return Verdict.TIMEOUT

    async def _bury(self, session: Session, status: SandboxStatus | None, outputs: OutputBuffer) -> Verdict:
        """End a session whose sandbox died under a run, and say why."""
        if status is not None and status.is_out_of_memory:
            await self.end(session, EndReason.OUT_OF_MEMORY)
            limit = self._settings.sandbox_memory_bytes // 1024**2
            outputs.add(
                Output(
                    OutputType.ERROR,
                    f"MemoryError: the session used more than its {limit} MiB of memory and was ended.",
                )
            )
            return Verdict.OOM
        await self.end(session, EndReason.KERNEL_DIED)
        code = f" (exit status {status.exit_code})" if status is not None and status.exit_code is not None else ""
        outputs.add(
            Output(
                OutputType.ERROR, f"KernelDied: the kernel ended while it ran the code{code}; its session was ended."
            )
        )
        return Verdict.KERNEL_DIED
