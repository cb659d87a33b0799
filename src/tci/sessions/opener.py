"""Opens sessions: takes a place, takes or launches a sandbox, then records and bills."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal

import structlog

from tci.errors import InvalidRequest, LaunchTimeout, ServiceError, Unavailable
from tci.ids import new_session_id
from tci.kernel.client import KernelClient
from tci.sandbox.driver import Limits
from tci.sandbox.spec import operator_limits
from tci.sessions.pool import WarmPool
from tci.sessions.sandboxes import Ready, Sandboxes
from tci.sessions.session import USUAL, Terms
from tci.settings import EgressPolicy, Settings
from tci.stages import staged
from tci.storage.account_store import Caller
from tci.storage.lease_store import LeaseStore
from tci.storage.session_store import Session, SessionStore

log = structlog.get_logger()

CLEARING_SECONDS = 30
"""How long a failed launch may take to be cleared away, its place still taken."""


class SessionOpener:
    """Makes sessions out of sandboxes. Whatever fails leaves no sandbox, no place taken, no row and no bill."""

    def __init__(
        self, *, settings: Settings, sandboxes: Sandboxes, pool: WarmPool, sessions: SessionStore, leases: LeaseStore
    ) -> None:
        self._settings = settings
        self._sandboxes = sandboxes
        self._pool = pool
        self._sessions = sessions
        self._leases = leases
        self._usual_limits = operator_limits(settings)

    @staged("open")
    async def open(
        self, caller: Caller, files: Mapping[str, bytes], terms: Terms = USUAL
    ) -> tuple[Session, KernelClient]:
        """Open a session with files in its working directory.

        Raises SessionLimitReached, NoCapacity, Unavailable, SandboxFailed, LaunchTimeout or InvalidFile, and
        InvalidRequest for terms that ask for more than the caller may have.
        """
        self._require_allowed(caller, terms)
        session_id, price = new_session_id(), Decimal(self._settings.session_price_usd)
        window = dt.timedelta(seconds=self._settings.launch_timeout_seconds + CLEARING_SECONDS)
        started_at = await self._leases.reserve(
            session_id,
            caller=caller,
            window=window,
            price_usd=price,
            account_limit=self._settings.max_sessions_per_account,
            machine_limit=self._settings.sandbox_capacity,
        )
        extending = asyncio.create_task(self._extend(session_id, window), name=f"keep the place of {session_id}")
        try:
            session, kernel = await self._open(caller, session_id, files, started_at, price, terms=terms)
        except BaseException:
            extending.cancel()
            await asyncio.shield(_if_possible(self._leases.abandon(session_id)))
            raise
        extending.cancel()
        try:
            await self._leases.confirm(session, price_usd=price)
        except Unavailable:  # it is recorded, so Redis will learn of it
            log.warning("Redis is away: a session was not counted yet", session_id=session_id)
        log.info("Opened session", session_id=session_id, account=caller.account, sandbox_id=session.sandbox_id)
        return session, kernel

    async def _open(
        self,
        caller: Caller,
        session_id: str,
        files: Mapping[str, bytes],
        started_at: dt.datetime,
        price: Decimal,
        *,
        terms: Terms,
    ) -> tuple[Session, KernelClient]:
        policy = self._sandboxes.policy_for(caller.egress).narrowed(terms.egress)
        limits = self._limits(terms)
        ttl = dt.timedelta(seconds=terms.ttl_seconds or self._settings.session_ttl_seconds)
        ready = await self._ready_sandbox(policy, limits)
        try:
            await self._sandboxes.open_gate(ready.sandbox_id, policy)
            if files:
                await ready.kernel.put(files)
            await self._require_time_left(terms, started_at + ttl)
            session = Session(
                id=session_id,
                account_id=caller.account_id,
                account=caller.account,
                sandbox_id=ready.sandbox_id,
                kernel_key=ready.kernel_key,
                started_at=started_at,
                last_execute_at=started_at,
                expires_at=started_at + ttl,
                execute_count=0,
                egress=policy,
                key_id=caller.key_id,
                metadata=terms.metadata,
                memory_bytes=limits.memory_bytes,
                cpus=limits.cpus,
            )
            await self._sessions.open(session, price_usd=price)
        except BaseException:
            # Shielded: a caller who leaves in the middle must not leave a sandbox behind.
            await asyncio.shield(_if_possible(self._sandboxes.clear(ready.sandbox_id)))
            raise
        self._sandboxes.settled(ready.sandbox_id)
        return session, ready.kernel

    async def _extend(self, session_id: str, window: dt.timedelta) -> None:
        """Keep a place while its call waits for its turn to launch."""
        while True:
            await asyncio.sleep(window.total_seconds() / 3)
            with suppress(Unavailable):
                await self._leases.extend(session_id, window)

    async def _ready_sandbox(self, policy: EgressPolicy, limits: Limits) -> Ready:
        """Return a sandbox of the pool, or a new one once it is this call's turn to launch.

        The pool's have the operator's limits.
        """
        if limits == self._usual_limits and (ready := await self._pool.claim(policy)) is not None:
            return ready
        async with self._sandboxes.slot():
            return await self._sandboxes.launch(policy, limits)

    async def _require_time_left(self, terms: Terms, expires_at: dt.datetime) -> None:
        """Raise LaunchTimeout where a short life is over before it began: it would be of no use, and cost."""
        if terms.ttl_seconds is not None and await self._leases.now_or_ours() >= expires_at:
            raise LaunchTimeout(terms.ttl_seconds)

    def _limits(self, terms: Terms) -> Limits:
        if terms.memory_bytes is None and terms.cpus is None:
            return self._usual_limits
        usual = self._usual_limits
        return replace(usual, memory_bytes=terms.memory_bytes or usual.memory_bytes, cpus=terms.cpus or usual.cpus)

    def _require_allowed(self, caller: Caller, terms: Terms) -> None:
        """Raise InvalidRequest where terms ask for more than the service and the key allow."""
        policy, usual = self._sandboxes.policy_for(caller.egress), self._usual_limits
        if terms.egress is not None and policy.narrowed(terms.egress) is not terms.egress:
            raise InvalidRequest(f"egress: must be at most {policy.value} for this key", param="egress")
        bounds = (
            ("ttl_seconds", terms.ttl_seconds, self._settings.session_ttl_seconds),
            ("limits.memory_bytes", terms.memory_bytes, usual.memory_bytes),
            ("limits.cpus", terms.cpus, usual.cpus),
        )
        for name, asked, most in bounds:
            if asked is not None and asked > most:
                raise InvalidRequest(f"{name}: must be at most {most:.15g} on this server", param=name)


async def _if_possible(clearing: Awaitable[None]) -> None:
    """Clear away after a failure, which is what the caller must hear of, not of this."""
    try:
        await clearing
    except ServiceError:
        log.warning("What a failed launch left is cleared away later", exc_info=True)
