"""The warm pool: sandboxes with a kernel that has everything imported, made before anybody asks. Single use."""

import asyncio
import datetime as dt
import hashlib
import math
import time

import structlog

from tci.errors import ServiceError, Unavailable
from tci.ids import random_text
from tci.kernel.client import KernelClient
from tci.kernel.zmtp import ConnectionLost
from tci.sandbox.docker_image import image_tag
from tci.sandbox.spec import operator_limits
from tci.sessions.sandboxes import Ready, Sandboxes
from tci.settings import EgressPolicy, Settings
from tci.storage.lease_store import LeaseStore
from tci.storage.pool_store import Pooled, PoolFigures, PoolStore

log = structlog.get_logger()

LEASE, LEASE_TTL = "pool", dt.timedelta(seconds=10)

LOOK_SECONDS = 0.5
"""How often the pool is looked at; a claim of this process has it looked at once."""

CHECK_SECONDS = 10.0
"""How often sandboxes in the pool are looked at whether they live."""

MAX_AGE = dt.timedelta(hours=6)
"""A sandbox that waited so long is replaced."""

HORIZON_SECONDS = 10.0
"""The pool grows to as many as were lately asked for in so long, which is what a few launches take."""

FORGET = 0.9
"""What is left of the memory of past demand after each second."""

PAUSE_SECONDS = 5.0
"""After a launch that failed, so that what is broken is not tried all the time."""


class WarmPool:
    """Gives sandboxes out in any process, and is filled by one of them."""

    def __init__(
        self, *, settings: Settings, sandboxes: Sandboxes, store: PoolStore, leases: LeaseStore, policy: EgressPolicy
    ) -> None:
        self._settings = settings
        self._sandboxes = sandboxes
        self._store = store
        self._leases = leases
        self._policy = policy
        self._make = _make(settings, policy)
        self._me = random_text(12)
        self._kernels: dict[str, KernelClient] = {}
        self._filling = 0
        self._wanted = asyncio.Event()
        self._rate = Rate()
        self._checked_at = 0.0
        self._paused_until = 0.0
        self._was_full = False

    async def claim(self, policy: EgressPolicy) -> Ready | None:
        """Return a sandbox that is the caller's from now on, or None if there is none for this policy.

        A sandbox that may reach less than the service allows has no way out at all, so it is made for itself.
        """
        if not self._settings.pool_size or (policy is EgressPolicy.NONE) != (self._policy is EgressPolicy.NONE):
            return None
        try:
            ready = await self._claim()
            await self._store.count("misses" if ready is None else "hits")
        except Unavailable:
            return None
        finally:
            self._wanted.set()
        return ready

    async def _claim(self) -> Ready | None:
        while (pooled := await self._store.take()) is not None:
            kernel = self._kernels.pop(pooled.sandbox_id, None)
            if not await self._hold(pooled.sandbox_id):
                continue
            if pooled.make != self._make:  # of before an upgrade
                await self._sandboxes.clear(pooled.sandbox_id)
                continue
            try:
                if kernel is not None and kernel.is_connected:
                    return Ready(pooled.sandbox_id, pooled.kernel_key, kernel)
                return await self._sandboxes.reconnect(pooled.sandbox_id, pooled.kernel_key)
            except (ConnectionLost, OSError):  # TimeoutError is one
                log.warning("A sandbox of the pool is of no use", sandbox_id=pooled.sandbox_id)
                await self._sandboxes.clear(pooled.sandbox_id)
            except BaseException:
                await asyncio.shield(self._sandboxes.clear(pooled.sandbox_id))
                raise
        return None

    async def _hold(self, sandbox_id: str) -> bool:
        """Become its keeper; whoever made it may be letting go of it in this very moment."""
        for _ in range(100):
            if self._sandboxes.hold(sandbox_id):
                return True
            await asyncio.sleep(0.005)
        log.error("A sandbox of the pool is kept by another process", sandbox_id=sandbox_id)
        return False

    async def run(self) -> None:
        """Keep the pool filled for ever, where this process has the lease."""
        if not self._settings.pool_size:
            return
        async with asyncio.TaskGroup() as fills:
            while True:
                try:
                    if await self._leases.hold(LEASE, self._me, ttl=LEASE_TTL):
                        await self._tend(fills)
                except (ServiceError, OSError):
                    log.warning("The pool can't be looked after now", exc_info=True)
                    await asyncio.sleep(PAUSE_SECONDS)
                try:
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._wanted.wait()
                except TimeoutError:
                    pass
                task = asyncio.current_task()
                if task is not None and task.cancelling():  # redis-py swallows cancellations
                    raise asyncio.CancelledError
                self._wanted.clear()

    async def _tend(self, fills: asyncio.TaskGroup) -> None:
        pooled = await self._without_the_useless(await self._store.list())
        self._drop_taken(pooled)
        figures = await self._store.figures()
        target = self._target(figures.hits + figures.misses)
        if target != figures.target:
            await self._store.aim(target)
        self._show_progress(len(pooled), target)
        if len(pooled) > target:
            await self._discard(pooled[0])
        room = self._settings.sandbox_capacity - len(await self._leases.places()) - len(pooled) - self._filling
        missing = min(target - len(pooled) - self._filling, room)
        # Callers that wait for a launch come first: two processors are soon used up.
        if self._sandboxes.has_callers or time.monotonic() < self._paused_until:
            return
        for _ in range(min(missing, self._settings.launches - self._filling)):
            self._filling += 1
            fills.create_task(self._fill(), name="fill the pool")

    def _show_progress(self, ready: int, target: int) -> None:
        """Tell how far the first filling is, which takes some seconds; later ones are what the pool is for."""
        if not self._was_full:
            self._was_full = ready >= target
            if self._was_full or self._filling == 0:
                log.info("The pool is full" if self._was_full else "Filling the pool", ready=ready, of=target)

    def _target(self, asked: int) -> int:
        """Return how many are to be ready: the least, or more where demand is."""
        demand = math.ceil(self._rate.after(asked) * HORIZON_SECONDS)
        return min(max(self._settings.pool_size, demand), max(self._settings.pool_size, self._settings.pool_max_size))

    async def _fill(self) -> None:
        try:
            ready = await self._sandboxes.launch(self._policy)
            now = dt.datetime.now(dt.UTC)
            pooled = Pooled(ready.sandbox_id, ready.kernel_key, self._make, now)
            try:
                self._kernels[ready.sandbox_id] = ready.kernel
                await self._store.put(pooled)
            except BaseException:
                self._kernels.pop(ready.sandbox_id).close()
                await asyncio.shield(self._sandboxes.clear(ready.sandbox_id))
                raise
            self._sandboxes.hand_over(ready.sandbox_id)
        except ServiceError:
            log.warning("A sandbox for the pool could not be made", exc_info=True)
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            await self._count_failure()
        finally:
            self._filling -= 1
            self._wanted.set()

    async def _count_failure(self) -> None:
        try:
            await self._store.count("failed")
        except Unavailable:
            log.warning("Redis is away: a failed launch was not counted")

    async def _without_the_useless(self, pooled: list[Pooled]) -> list[Pooled]:
        """Discard what is too old, of another make, or dead; return the others."""
        oldest = dt.datetime.now(dt.UTC) - MAX_AGE
        is_due = time.monotonic() >= self._checked_at + CHECK_SECONDS
        if is_due:
            self._checked_at = time.monotonic()
        useful = []
        for one in pooled:
            is_useful = one.make == self._make and one.ready_at > oldest
            if is_useful and (not is_due or await self._sandboxes.is_alive(one.sandbox_id)):
                useful.append(one)
            else:
                await self._discard(one)
        return useful

    async def _discard(self, pooled: Pooled) -> None:
        if await self._store.remove(pooled):
            if kernel := self._kernels.pop(pooled.sandbox_id, None):
                kernel.close()
            await self._sandboxes.clear(pooled.sandbox_id)

    def _drop_taken(self, pooled: list[Pooled]) -> None:
        """Close the connections to sandboxes that other processes have claimed."""
        for sandbox_id in self._kernels.keys() - {one.sandbox_id for one in pooled}:
            # One that is just being put there is in `launching` still.
            if sandbox_id not in self._sandboxes.launching:
                self._kernels.pop(sandbox_id).close()

    async def figures(self) -> PoolFigures:
        """Return how the pool does."""
        return await self._store.figures()

    async def ids(self) -> set[str]:
        """Return the ids of all sandboxes in the pool."""
        return {pooled.sandbox_id for pooled in await self._store.list()}

    async def drain(self) -> None:
        """Destroy all that is in the pool."""
        while (pooled := await self._store.take()) is not None:
            await self._sandboxes.clear(pooled.sandbox_id)

    def close(self) -> None:
        """Drop the connections; the sandboxes stay, for whoever serves next."""
        for kernel in self._kernels.values():
            kernel.close()
        self._kernels.clear()


class Rate:
    """How often something was asked for lately, a second, from a count that only grows."""

    def __init__(self) -> None:
        self._count: int | None = None
        self._at = time.monotonic()
        self._rate = 0.0

    def after(self, count: int) -> float:
        """Return the rate, the count being what it is now."""
        now = time.monotonic()
        seconds = max(now - self._at, 1e-3)
        fresh = 0 if self._count is None or count < self._count else count - self._count
        kept = FORGET**seconds
        self._rate = self._rate * kept + fresh / seconds * (1 - kept)
        self._count, self._at = count, now
        return self._rate


def _make(settings: Settings, policy: EgressPolicy) -> str:
    """Return a name for all that goes into a sandbox, so that no old one is given out after a change."""
    parts = (image_tag(), operator_limits(settings), settings.preload, policy, settings.pip_index_url)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
