"""Opens sessions: takes a place, launches a sandbox, waits for its kernel, then records and bills."""

import asyncio
import datetime as dt
from collections.abc import Mapping
from decimal import Decimal

import structlog

from tci.egress.gate import Gates
from tci.errors import LaunchTimeout, SandboxFailed
from tci.ids import new_sandbox_id, new_session_id
from tci.kernel.client import KernelClient, MessageLost, wait_for_sockets
from tci.kernel.zmtp import ConnectionLost
from tci.sandbox.driver import SandboxDriver, SandboxSpec
from tci.sandbox.spec import new_spec
from tci.settings import EgressPolicy, Settings
from tci.storage.account_store import Caller
from tci.storage.lease_store import LeaseStore
from tci.storage.session_store import Session, SessionStore

log = structlog.get_logger()

DEATH_CHECK_SECONDS = 0.25
"""How often a starting sandbox is looked at, so that one that died is not waited for."""

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
        gates: Gates,
        policy: EgressPolicy,
        sockets: str,
        deployment: str,
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._sessions = sessions
        self._leases = leases
        self._gates = gates
        self._policy = policy
        self._sockets = sockets
        self._deployment = deployment
        self._launching: set[str] = set()

    @property
    def launching(self) -> frozenset[str]:
        """Sandboxes that run and are not recorded yet: not orphans."""
        return frozenset(self._launching)

    async def open(self, caller: Caller, files: Mapping[str, bytes]) -> tuple[Session, KernelClient]:
        """Open a session with files in its working directory.

        Raises SessionLimitReached, NoCapacity, Unavailable, SandboxFailed, LaunchTimeout or InvalidFile.
        """
        session_id = new_session_id()
        ttl = dt.timedelta(seconds=self._settings.session_ttl_seconds)
        started_at = await self._leases.reserve(
            session_id,
            account_id=caller.account_id,
            ttl=ttl,
            account_limit=self._settings.max_sessions_per_account,
            machine_limit=self._settings.sandbox_capacity,
        )
        try:
            return await self._open(caller, session_id, files, started_at, ttl)
        except BaseException:
            await asyncio.shield(self._leases.release(session_id, account_id=caller.account_id))
            raise

    async def _open(
        self, caller: Caller, session_id: str, files: Mapping[str, bytes], started_at: dt.datetime, ttl: dt.timedelta
    ) -> tuple[Session, KernelClient]:
        sandbox_id, policy = new_sandbox_id(), self._policy.narrowed(caller.egress)
        self._launching.add(sandbox_id)
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
                expires_at=started_at + ttl,
                execute_count=0,
                egress=policy,
                key_id=caller.key_id,
            )
            await self._sessions.open(session, price_usd=Decimal(self._settings.session_price_usd))
        except BaseException:
            # Shielded: a caller who leaves in the middle must not leave a sandbox behind.
            self._gates.close(sandbox_id)
            await asyncio.shield(self._driver.destroy(sandbox_id))
            raise
        finally:
            self._launching.discard(sandbox_id)
        log.info("Opened session", session_id=session_id, account=caller.account, sandbox_id=sandbox_id)
        return session, kernel

    def connect(self, sandbox_id: str, kernel_key: str) -> KernelClient:
        """Return a client of a running sandbox's kernel."""
        return KernelClient(
            directory=f"{self._sockets}/{sandbox_id}",
            key=kernel_key,
            max_message_bytes=self._settings.max_output_bytes + MESSAGE_SLACK_BYTES,
        )

    async def reopen_gate(self, session: Session) -> None:
        """Listen again for a session that another process opened; does nothing where its gate is open."""
        await self._gates.open(session.sandbox_id, self._policy.narrowed(session.egress))

    def close_gate(self, sandbox_id: str) -> None:
        """Let nothing more out of a sandbox that is about to end."""
        self._gates.close(sandbox_id)

    async def _launch(self, spec: SandboxSpec) -> KernelClient:
        """Start a sandbox and return a client of its kernel once that has run something."""
        seconds = self._settings.launch_timeout_seconds
        kernel: KernelClient | None = None
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                await self._driver.launch(spec)
                death = group.create_task(self._raise_on_death(spec.sandbox_id), name="watch starting sandbox")
                await wait_for_sockets(spec.socket_directory)
                kernel = self.connect(spec.sandbox_id, spec.kernel_key)
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
