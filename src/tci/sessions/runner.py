"""Runs code in a kernel under one deadline, and says how that ended from what is seen outside the kernel."""

import asyncio
import datetime as dt
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from tci.errors import KernelFailed, SandboxFailed, SessionNotFound
from tci.kernel.client import KernelClient, MessageLost, OutputTooLarge
from tci.kernel.output_buffer import OutputBuffer, Outputs
from tci.kernel.zmtp import ConnectionLost
from tci.sandbox.driver import SandboxDriver, SandboxStatus, Usage
from tci.sessions.session import Verdict
from tci.settings import Settings
from tci.storage.session_store import EndReason, Session

log = structlog.get_logger()

WATCH_SECONDS = 0.5
"""How often the sandbox of a running execution is looked at: its death is noticed within two seconds."""

BEGIN_LOOK_SECONDS = 0.02
"""How often a run that is to be interrupted is looked at, whether it has begun."""

DEATH_LOOKS, DEATH_LOOK_SECONDS = 15, 0.1
"""How often, and at what interval, a sandbox whose kernel closed its connections is looked at."""

NO_USAGE = Usage(cpu=dt.timedelta(), peak_memory_bytes=0)

NOT_A_DEATH = frozenset({EndReason.EXPIRED, EndReason.ENDED, EndReason.SHUTDOWN, EndReason.CLIENT_LEFT})

End = Callable[[Session, EndReason], Awaitable[EndReason]]
"""Ends a session, its sandbox included, and returns why it ended: another may have been first."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run."""

    outputs: Outputs
    verdict: Verdict
    duration: dt.timedelta
    cpu: dt.timedelta
    peak_memory_bytes: int


class Runner:
    """Watches runs. Each has three ends: the kernel's own, the sandbox's death, the deadline."""

    def __init__(self, *, settings: Settings, driver: SandboxDriver, end: End, is_stopping: Callable[[], bool]) -> None:
        self._settings = settings
        self._driver = driver
        self._end = end
        self._is_stopping = is_stopping

    async def run(
        self, session: Session, kernel: KernelClient, code: str, *, files: Mapping[str, bytes], timeout: float
    ) -> Result:
        """Write the files, run the code, return what came of it.

        A run that is cancelled, since its caller went away, is interrupted before this returns. So it is where the
        service stops, but then its caller is there, and gets what came of it: a request that is sent again would run
        twice. Raises InvalidFile, KernelFailed, and SessionNotFound where the session was dead before the code began.
        """
        outputs = OutputBuffer(limit=self._settings.max_output_bytes)
        before = await self._driver.usage(session.sandbox_id)
        if before is None:
            await self._require_life(session)
        started = time.perf_counter()
        task = asyncio.create_task(_put_and_execute(kernel, code, outputs, files), name=f"execute in {session.id}")
        try:
            verdict, after = await self._watch(session, kernel, task, outputs, timeout=timeout)
        except asyncio.CancelledError:
            await asyncio.shield(self._leave(session, kernel, task, outputs, timeout))
            if session.answered_at is None or not self._is_stopping():  # of a session that is new nobody knows
                raise
            outputs.conclude("Interrupted: the service stops and could not wait for the end of the code.")
            verdict, after = Verdict.INTERRUPTED, await self._usage(session, NO_USAGE)
        finally:
            task.cancel()
        duration = dt.timedelta(seconds=time.perf_counter() - started)
        if outputs.left_out and verdict in {Verdict.OK, Verdict.ERROR, Verdict.TIMEOUT}:
            verdict = Verdict.OUTPUT_LIMIT
        return Result(
            outputs=outputs.outputs(),
            verdict=verdict,
            duration=duration,
            cpu=max(after.cpu - (before or NO_USAGE).cpu, dt.timedelta()),
            peak_memory_bytes=max(after.peak_memory_bytes, (before or NO_USAGE).peak_memory_bytes),
        )

    async def _watch(
        self, session: Session, kernel: KernelClient, task: asyncio.Task[bool], outputs: OutputBuffer, *, timeout: float
    ) -> tuple[Verdict, Usage]:
        """Wait for whichever end comes first; return it, and what the sandbox had used by then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        usage = NO_USAGE
        while True:
            left = deadline - loop.time()
            if left <= 0:
                usage = await self._usage(session, usage)
                return await self._stop(session, kernel, task, outputs, timeout), usage
            await asyncio.wait({task}, timeout=min(WATCH_SECONDS, left))
            usage = await self._usage(session, usage)
            if task.done():
                return await self._ended(session, task, outputs), usage
            status = await self._look(session)
            if status is None or not status.is_running:
                return await self._bury(session, status, outputs), usage

    async def _look(self, session: Session) -> SandboxStatus | None:
        """Look at the sandbox. An engine that does not answer, say since it restarts, tells of no death."""
        try:
            return await self._driver.inspect(session.sandbox_id)
        except SandboxFailed:
            log.warning("A sandbox can't be looked at while it runs code", session_id=session.id)
            return SandboxStatus(is_running=True)

    async def _usage(self, session: Session, last: Usage) -> Usage:
        """Measure now; of a sandbox that is gone, or can't be looked at, the last figures stand."""
        try:
            return await self._driver.usage(session.sandbox_id) or last
        except SandboxFailed:
            return last

    async def _ended(self, session: Session, task: asyncio.Task[bool], outputs: OutputBuffer) -> Verdict:
        if task.cancelled():  # somebody ended the session, or its time was over: its connection was closed
            return _ended_by_others(session, outputs)
        try:
            return Verdict.OK if task.result() else Verdict.ERROR
        except OutputTooLarge:
            await self._end(session, EndReason.OUTPUT_LIMIT)
            limit = self._settings.max_output_bytes
            outputs.conclude(
                f"OutputLimit: an output was far larger than the limit of {limit} bytes; the session was ended."
            )
            return Verdict.OUTPUT_LIMIT
        except MessageLost:
            await self._end(session, EndReason.KERNEL_DIED)
            outputs.conclude("KernelDied: the kernel no longer says how the code ended; its session was ended.")
            return Verdict.KERNEL_DIED
        except ConnectionLost:
            return await self._bury(session, await self._death(session), outputs)

    async def _death(self, session: Session) -> SandboxStatus | None:
        """Look how a kernel that closed its connections ended: its exit status may be known a moment later."""
        for _ in range(DEATH_LOOKS):
            status = await self._look(session)
            if status is None or not status.is_running:
                break
            await asyncio.sleep(DEATH_LOOK_SECONDS)
        return status

    async def _stop(
        self, session: Session, kernel: KernelClient, task: asyncio.Task[bool], outputs: OutputBuffer, timeout: float
    ) -> Verdict:
        """Interrupt a run whose time is over; one that goes on after the grace period loses its sandbox."""
        limit = f"TimeoutError: the execution ran longer than its limit of {timeout:g} seconds"
        if await self._interrupt(session, kernel, task, EndReason.TIMEOUT):
            outputs.conclude(f"{limit} and was interrupted.")
        else:
            outputs.conclude(f"{limit}, did not stop, and its session was ended.")
        return Verdict.TIMEOUT

    async def _leave(
        self, session: Session, kernel: KernelClient, task: asyncio.Task[bool], outputs: OutputBuffer, timeout: float
    ) -> None:
        """Interrupt a run whose caller left, once the kernel has begun with it.

        While Redis is away, or has just been emptied, the runs of other processes may stand before it in the kernel's
        queue, and the interrupt would hit one of them.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + timeout
        while not (outputs.has_begun or task.done()) and loop.time() < give_up:  # noqa: ASYNC110 (they set no event)
            await asyncio.sleep(BEGIN_LOOK_SECONDS)
        if not task.done():
            await self._interrupt(session, kernel, task, EndReason.CLIENT_LEFT)

    async def _interrupt(
        self, session: Session, kernel: KernelClient, task: asyncio.Task[bool], reason: EndReason
    ) -> bool:
        """Interrupt a run and return whether it stopped in the grace period; if not, the session is ended."""
        try:
            async with asyncio.timeout(self._settings.grace_seconds):
                await kernel.interrupt()
                await asyncio.wait({task})
            has_stopped = task.cancelled() or task.exception() is None
        except (TimeoutError, KernelFailed):
            has_stopped = False
        if not has_stopped:  # or what it says can't be read any more
            task.cancel()
            await self._end(session, reason)
        return has_stopped

    async def _require_life(self, session: Session) -> None:
        """Raise SessionNotFound if the sandbox died between two calls: the code must not meet a blank kernel."""
        status = await self._driver.inspect(session.sandbox_id)
        if status is None or not status.is_running:
            reason = await self._end(session, reason_of_death(status))
            raise SessionNotFound(session.id, reason=reason)

    async def _bury(self, session: Session, status: SandboxStatus | None, outputs: OutputBuffer) -> Verdict:
        """End a session whose sandbox died under a run, and say why."""
        reason = await self._end(session, reason_of_death(status))
        if reason in NOT_A_DEATH:  # another process ended it, and its sandbox with it
            return _ended_by_others(session, outputs)
        if reason is EndReason.OUT_OF_MEMORY:
            limit = self._settings.sandbox_memory_bytes // 1024**2
            text = f"MemoryError: the session used more than its limit of {limit} MiB of memory and was ended."
            outputs.conclude(text)
            return Verdict.OOM
        code = f" (exit status {status.exit_code})" if status is not None and status.exit_code is not None else ""
        text = f"KernelDied: the kernel ended while it ran the code{code}; its session was ended."
        outputs.conclude(text)
        return Verdict.KERNEL_DIED


def _ended_by_others(session: Session, outputs: OutputBuffer) -> Verdict:
    how = "expired" if session.expires_at <= dt.datetime.now(dt.UTC) else "was ended"
    outputs.conclude(f"SessionEnded: the session {how} while it ran the code.")
    return Verdict.INTERRUPTED


def reason_of_death(status: SandboxStatus | None) -> EndReason:
    """Return why a session whose sandbox does not run has ended."""
    if status is None:
        return EndReason.LOST
    return EndReason.OUT_OF_MEMORY if status.is_out_of_memory else EndReason.KERNEL_DIED


async def _put_and_execute(kernel: KernelClient, code: str, outputs: OutputBuffer, files: Mapping[str, bytes]) -> bool:
    if files:
        await kernel.put(files)
    return await kernel.execute(code, outputs)
