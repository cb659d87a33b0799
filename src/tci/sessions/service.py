"""Finds or opens a session, has its code run, and counts it."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import structlog

from tci.errors import InvalidRequest, ServiceError, SessionNotFound, Unavailable
from tci.ids import is_session_id
from tci.kernel.output_buffer import OutputBuffer
from tci.log import about
from tci.sandbox.driver import SandboxDriver
from tci.sessions.connections import Connections
from tci.sessions.counting import counted
from tci.sessions.opener import SessionOpener
from tci.sessions.outbox import Outbox
from tci.sessions.runner import Result, Runner
from tci.sessions.sandboxes import Sandboxes
from tci.sessions.session import Execution, Follower, Terms
from tci.sessions.turnstile import Turnstile
from tci.settings import Settings
from tci.stages import staged
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

    @counted
    async def execute(
        self,
        caller: Caller,
        code: str,
        *,
        session_id: str | None,
        files: Mapping[str, bytes],
        timeout: float | None,
        follower: Follower | None = None,
    ) -> Execution:
        """Run code in the caller's session, or in a new one, after writing the files.

        Raises InvalidRequest, SessionNotFound, TooManyWaiting, QuotaReached, and whatever opening a session raises;
        code that raises is an Execution. If it is cancelled, what it started is interrupted first; while the service
        stops, that is an Execution too, and else CancelledError. A follower is told of the session before the code
        runs, and takes the outputs as they come.
        """
        with self._at_work():
            timeout = self._checked(timeout)
            await self._leases.require_rate(caller)
            if session_id is None:
                return await self._execute_in_new(caller, code, files, timeout, follower)
            return await self._execute_in(caller, session_id, code, files, timeout, follower=follower)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Have a stop wait for this task."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a coroutine that runs is in one)
        self._running.add(task)
        try:
            yield
        finally:
            self._running.discard(task)

    @asynccontextmanager
    async def opened(self, caller: Caller, terms: Terms) -> AsyncIterator[Session]:
        """Open a session before it has anything to run, for whoever tells its caller of it in the block.

        Raises whatever opening a session raises. If the block fails, nobody will hear its id, and it is ended.
        """
        with self._at_work():
            session, kernel = await self._opener.open(caller, {}, terms)
            # Who calls it has heard of it.
            self._connections.put(replace(session, answered_at=session.started_at), kernel)
            try:
                yield session
            except asyncio.CancelledError:
                await asyncio.shield(self._end_unheard(session))
                raise
            except Exception:
                await asyncio.shield(self.end(session, EndReason.FAILED))
                raise
            at = dt.datetime.now(dt.UTC)
            marking = self._outbox.write(lambda: self._sessions.mark_answered(session.id, at), patience_seconds=0)
            await asyncio.shield(marking)

    async def _end_unheard(self, session: Session) -> None:
        await self.end(session, EndReason.SHUTDOWN if self.is_stopping() else EndReason.CLIENT_LEFT)

    async def _execute_in_new(
        self, caller: Caller, code: str, files: Mapping[str, bytes], timeout: float, follower: Follower | None
    ) -> Execution:
        session, kernel = await self._opener.open(caller, files)
        self._connections.put(session, kernel)
        try:
            async with self.turnstile.turn(session.id, is_new=True):
                return await self._run(session, code, {}, timeout, follower)
        except asyncio.CancelledError:
            if follower is not None and follower.has_heard:
                raise
            # Whoever asked for it will not hear its id.
            await asyncio.shield(self._end_unheard(session))
            raise
        except ServiceError:
            if follower is not None and follower.has_heard:
                raise
            # Nobody will hear its id.
            await asyncio.shield(self.end(session, EndReason.FAILED))
            raise

    async def _execute_in(
        self,
        caller: Caller,
        session_id: str,
        code: str,
        files: Mapping[str, bytes],
        timeout: float,
        *,
        follower: Follower | None,
    ) -> Execution:
        known = self._connections.known(session_id)
        if known is None or known.account_id != caller.account_id:
            known = await self._find(caller, session_id)  # a stranger does not queue
        if follower is not None:
            follower.expect(known)
        # One run at a time in a session, in order of arrival; the time limit then counts from a run's own start.
        async with self.turnstile.turn(session_id) as turn:
            session = self._connections.known(session_id) if turn.is_ours else None
            # Else another process may have served or ended it meanwhile.
            session = session or await self._found_anew(caller, session_id)
            if session.expires_at <= turn.now:
                raise SessionNotFound(session_id, reason=EndReason.EXPIRED)
            return await self._run(session, code, files, timeout, follower)

    async def _found_anew(self, caller: Caller, session_id: str) -> Session:
        try:
            return await self._find(caller, session_id)
        except BaseException:
            # This process has just taken the session over: the next turn will be told that it knows all of it.
            self._connections.drop(session_id)
            raise

    async def _run(
        self, session: Session, code: str, files: Mapping[str, bytes], timeout: float, follower: Follower | None
    ) -> Execution:
        about(session_id=session.id)
        kernel = self._connections.get(session)
        outputs = OutputBuffer(limit=self._settings.max_output_bytes)
        if follower is not None:
            await follower.begin(session, outputs)
            if follower.has_heard:
                session = replace(session, answered_at=session.answered_at or session.started_at)
        # Counted while the kernel works, which takes longer; but to count a first run says that it was answered.
        counting = None if session.answered_at is None else asyncio.create_task(self._count(session))
        try:
            result = await self._runner.run(session, kernel, code, files=files, timeout=timeout, outputs=outputs)
            count = await (self._counted(counting) if counting else self._count(session))
        except BaseException:
            if counting is not None:  # whatever came of the run, it ran
                await asyncio.wait({counting})
            self._connections.drop(session.id)  # what is known of the session is behind by this count
            raise
        self._connections.has_followed(session, count)
        milliseconds = round(result.duration.total_seconds() * 1000)
        log.info("Executed", verdict=result.verdict, duration_ms=milliseconds)
        return _execution(session, result, count)

    @staged("count")
    async def _count(self, session: Session) -> int:
        """Record an execution and return how many there were; held back, for some time, by a database that is away."""
        at, known = dt.datetime.now(dt.UTC), session.execute_count
        try:
            return await self._sessions.count_execution(session.id, at, known=known)
        except Unavailable:  # whether it was counted is not known
            recorded = await self._outbox.write(
                lambda: self._sessions.count_unless_counted(session.id, at, known=known),
                patience_seconds=RECORD_SECONDS,
            )
        return recorded or known + 1

    async def _counted(self, counting: asyncio.Task[int]) -> int:
        """Wait until a run is counted; a stop does not break off here, since the run is over and is to be answered."""
        try:
            return await asyncio.shield(counting)
        except asyncio.CancelledError:
            if not self.is_stopping():
                raise
            return await counting

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

    async def find(self, caller: Caller, session_id: str, *, as_admin: bool = False) -> Session:
        """Return the caller's live session; raises SessionNotFound.

        `as_admin`: where a key that sees every account may name any account's.
        """
        session = await self._find(caller, session_id, as_admin=as_admin)
        if session.expires_at <= await self._leases.now_or_ours():
            raise SessionNotFound(session_id, reason=EndReason.EXPIRED)
        return session

    def interrupt(self, session_id: str) -> bool:
        """Interrupt what this process runs in the session, and return whether it runs anything."""
        return self._runner.interrupt(session_id)

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

    async def _find(self, caller: Caller, session_id: str, *, as_admin: bool = False) -> Session:
        # What can't be an id is not looked up: PostgreSQL refuses a NUL, for one.
        session = await self._sessions.get(session_id) if is_session_id(session_id) else None
        may_see = as_admin and caller.is_admin
        if session is None or (session.account_id != caller.account_id and not may_see):
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
