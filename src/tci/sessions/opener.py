"""Opens sessions: takes a place, launches a sandbox, waits for its kernel, then records and bills."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Mapping
from decimal import Decimal

import structlog

from tci.egress.gate import Gates
from tci.errors import LaunchTimeout, SandboxFailed, ServiceError, Unavailable
from tci.ids import new_sandbox_id, new_session_id
from tci.kernel.client import KernelClient, MessageLost, wait_for_sockets
from tci.kernel.zmtp import ConnectionLost
from tci.sandbox.driver import SandboxDriver, SandboxSpec
from tci.sandbox.keepers import Keepers
from tci.sandbox.spec import new_spec
from tci.settings import EgressPolicy, Settings
from tci.storage.account_store import Caller
from tci.storage.lease_store import LeaseStore
from tci.storage.session_store import Session, SessionStore

log = structlog.get_logger()

DEATH_CHECK_SECONDS = 0.25
"""How often a starting sandbox is looked at, so that one that died is not waited for."""

CLEARING_SECONDS = 30
"""How long a failed launch may take to be cleared away, its place still taken."""

MESSAGE_SLACK_BYTES = 1024**2
"""What a message may weigh beyond the outputs' limit: its headers and the JSON around them."""


class SessionOpener:
    """Makes sessions out of sandboxes. Whatever fails leaves no sandbox, no place taken, no row and no bill."""

    def __init__(
        self,
        *,
        settings: Settings,
        driver: SandboxDriver,
        sessions: SessionStore,
        leases: LeaseStore,
        keepers: Keepers,
        gates: Gates,
        policy: EgressPolicy,
        sockets: str,
        deployment: str,
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._sessions = sessions
        self._leases = leases
        self._keepers = keepers
        self._gates = gates
        self._policy = policy
        self._sockets = sockets
        self._deployment = deployment
        self._launching: set[str] = set()

    @property
    def launching(self) -> frozenset[str]:
        """Sandboxes of this process that run and are not recorded yet: not orphans."""
        return frozenset(self._launching)

    async def open(self, caller: Caller, files: Mapping[str, bytes]) -> tuple[Session, KernelClient]:
        """Open a session with files in its working directory.

        Raises SessionLimitReached, NoCapacity, Unavailable, SandboxFailed, LaunchTimeout or InvalidFile.
        """
        session_id, price = new_session_id(), Decimal(self._settings.session_price_usd)
        started_at = await self._leases.reserve(
            session_id,
            caller=caller,
            window=dt.timedelta(seconds=self._settings.launch_timeout_seconds + CLEARING_SECONDS),
            price_usd=price,
            account_limit=self._settings.max_sessions_per_account,
            machine_limit=self._settings.sandbox_capacity,
        )
        try:
            session, kernel = await self._open(caller, session_id, files, started_at, price)
        except BaseException:
            await asyncio.shield(_if_possible(self._leases.abandon(session_id)))
            raise
        try:
            await self._leases.confirm(session, price_usd=price)
        except Unavailable:  # it is recorded, so Redis will learn of it
            log.warning("Redis is away: a session was not counted yet", session_id=session_id)
        log.info("Opened session", session_id=session_id, account=caller.account, sandbox_id=session.sandbox_id)
        return session, kernel

    async def _open(
        self, caller: Caller, session_id: str, files: Mapping[str, bytes], started_at: dt.datetime, price: Decimal
    ) -> tuple[Session, KernelClient]:
        sandbox_id, policy = new_sandbox_id(), self._policy.narrowed(caller.egress)
        self._launching.add(sandbox_id)
        self._keepers.keep(sandbox_id)
        try:
            spec = new_spec(
                self._settings,
                sandbox_id=sandbox_id,
                deployment=self._deployment,
                egress_directory=await self._gates.open(sandbox_id, policy),
                has_ca=self._gates.has_ca,
            )
            kernel = await self._launch(spec)
            if files:
                await kernel.put(files)
            session = Session(
                id=session_id,
                account_id=caller.account_id,
                account=caller.account,
                sandbox_id=spec.sandbox_id,
                kernel_key=spec.kernel_key,
                started_at=started_at,
                last_execute_at=started_at,
                expires_at=started_at + dt.timedelta(seconds=self._settings.session_ttl_seconds),
                execute_count=0,
                egress=policy,
                key_id=caller.key_id,
            )
            await self._sessions.open(session, price_usd=price)
        except BaseException:
            # Shielded: a caller who leaves in the middle must not leave a sandbox behind.
            await asyncio.shield(_if_possible(self.clear(sandbox_id)))
            raise
        finally:
            self._launching.discard(sandbox_id)
        return session, kernel

    def connect(self, session: Session) -> KernelClient:
        """Return a client of a running session's kernel."""
        return self._connect(session.sandbox_id, session.kernel_key)

    async def take_over(self, session: Session) -> None:
        """Become the keeper of a session that another process opened, and listen for it; not if it has a keeper."""
        if self._keepers.keep(session.sandbox_id):
            await self._gates.open(session.sandbox_id, self._policy.narrowed(session.egress))

    async def clear(self, sandbox_id: str) -> None:
        """Let nothing more out of a sandbox, end it, and remove its traces; raises SandboxFailed."""
        self._gates.close(sandbox_id)
        self._keepers.let_go(sandbox_id)  # if the engine fails now, whoever finds it tries again
        await self._driver.destroy(sandbox_id)
        self._keepers.forget(sandbox_id)

    def _connect(self, sandbox_id: str, kernel_key: str) -> KernelClient:
        return KernelClient(
            directory=f"{self._sockets}/{sandbox_id}",
            key=kernel_key,
            max_message_bytes=self._settings.max_output_bytes + MESSAGE_SLACK_BYTES,
        )

    async def _launch(self, spec: SandboxSpec) -> KernelClient:
        """Start a sandbox and return a client of its kernel once that has run something."""
        seconds = self._settings.launch_timeout_seconds
        kernel: KernelClient | None = None
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                await self._driver.launch(spec)
                death = group.create_task(self._raise_on_death(spec.sandbox_id), name="watch starting sandbox")
                await wait_for_sockets(spec.socket_directory)
                kernel = self._connect(spec.sandbox_id, spec.kernel_key)
                await self._wait_until_ready(kernel)
                await self._driver.seal(spec)
                death.cancel()
                return kernel
        except BaseException as error:
            if kernel is not None:
                kernel.close()
            if isinstance(error, TimeoutError):
                raise LaunchTimeout(seconds) from None
            if isinstance(error, BaseExceptionGroup) and (failed := error.subgroup(SandboxFailed)):
                raise failed.exceptions[0] from None
            raise

    async def _wait_until_ready(self, kernel: KernelClient) -> None:
        try:
            await kernel.wait_until_ready()
        except (ConnectionLost, MessageLost):
            await asyncio.sleep(4 * DEATH_CHECK_SECONDS)  # who watches for its death knows more: the exit status
            message = "The kernel closed its connection while it was starting."
            raise SandboxFailed(message) from None

    async def _raise_on_death(self, sandbox_id: str) -> None:
        while True:
            await asyncio.sleep(DEATH_CHECK_SECONDS)
            status = await self._driver.inspect(sandbox_id)
            if status is None or not status.is_running:
                code = status.exit_code if status else None
                message = f"The sandbox ended while it was starting (exit status {code})."
                raise SandboxFailed(message)


async def _if_possible(clearing: Awaitable[None]) -> None:
    """Clear away after a failure, which is what the caller must hear of, not of this."""
    try:
        await clearing
    except ServiceError:
        log.warning("What a failed launch left is cleared away later", exc_info=True)
