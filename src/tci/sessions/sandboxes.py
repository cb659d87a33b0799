"""The sandboxes that this process answers for: launched, connected, taken over, cleared away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from tci import metrics
from tci.egress.gate import Gates
from tci.errors import LaunchTimeout, SandboxFailed, ServiceError
from tci.ids import new_sandbox_id
from tci.kernel.client import KernelClient, MessageLost, wait_for_sockets
from tci.kernel.zmtp import ConnectionLost
from tci.sandbox.driver import Limits, SandboxDriver, SandboxSpec
from tci.sandbox.keepers import Keepers
from tci.sandbox.spec import new_spec
from tci.settings import EgressPolicy, Settings
from tci.storage.session_store import Session

log = structlog.get_logger()

DEATH_CHECK_SECONDS = 0.25
"""How often a starting sandbox is looked at, so that one that died is not waited for."""

MESSAGE_SLACK_BYTES = 1024**2
"""What a message may weigh beyond the outputs' limit: its headers and the JSON around them."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A sandbox whose kernel has run something, and this process's connection to it."""

    sandbox_id: str
    kernel_key: str
    kernel: KernelClient


class Sandboxes:
    """The one way to sandboxes, for sessions and for the pool."""

    def __init__(
        self,
        *,
        settings: Settings,
        driver: SandboxDriver,
        keepers: Keepers,
        gates: Gates,
        policy: EgressPolicy,
        sockets: str,
        deployment: str,
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._keepers = keepers
        self._gates = gates
        self._policy = policy
        self._sockets = sockets
        self._deployment = deployment
        self._launching: set[str] = set()
        self._slots = asyncio.Semaphore(settings.launches)
        self._waiting = 0

    @property
    def launching(self) -> frozenset[str]:
        """Sandboxes of this process that run and are not recorded yet: not orphans."""
        return frozenset(self._launching)

    @property
    def has_callers(self) -> bool:
        """Whether any caller waits for a launch: then nothing else is launched."""
        return self._waiting > 0

    def policy_for(self, narrowest: EgressPolicy | None) -> EgressPolicy:
        """Return what a session may reach."""
        return self._policy.narrowed(narrowest)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait, in order of arrival, for one of as many launches as go well at once."""
        self._waiting += 1
        try:
            async with self._slots:
                yield
        finally:
            self._waiting -= 1

    async def launch(self, policy: EgressPolicy, limits: Limits | None = None) -> Ready:
        """Start a sandbox whose gate is closed yet; it stays in `launching` until it is `settled` or cleared.

        Without limits of its own it has the operator's.
        Raises SandboxFailed or LaunchTimeout; then nothing is left.
        """
        sandbox_id = new_sandbox_id()
        self.hold(sandbox_id)
        try:
            spec = new_spec(
                self._settings,
                sandbox_id=sandbox_id,
                deployment=self._deployment,
                egress_directory=self._gates.prepare(sandbox_id, policy),
                has_ca=self._gates.has_ca,
                limits=limits,
            )
            with metrics.Launch(self._driver.name):
                kernel = await self._launch(spec)
        except BaseException:
            # Shielded: a caller who leaves in the middle must not leave a sandbox behind.
            await asyncio.shield(self._clear_if_possible(sandbox_id))
            raise
        return Ready(sandbox_id, spec.kernel_key, kernel)

    def hold(self, sandbox_id: str) -> bool:
        """Become the keeper of a sandbox that is not recorded yet; return False if another process is."""
        if not self._keepers.keep(sandbox_id):
            return False
        self._launching.add(sandbox_id)
        return True

    def settled(self, sandbox_id: str) -> None:
        """Note that a sandbox is recorded now, as a session's."""
        self._launching.discard(sandbox_id)

    def hand_over(self, sandbox_id: str) -> None:
        """Stop answering for a sandbox that is written down as the pool's."""
        self._launching.discard(sandbox_id)
        self._keepers.forget(sandbox_id)

    async def open_gate(self, sandbox_id: str, policy: EgressPolicy) -> None:
        """Let a sandbox out, as far as its policy allows."""
        await self._gates.open(sandbox_id, policy)

    async def reconnect(self, sandbox_id: str, kernel_key: str) -> Ready:
        """Connect to a kernel that has been ready before; raises ConnectionLost or TimeoutError if it is not."""
        kernel = self.connect(sandbox_id, kernel_key)
        try:
            async with asyncio.timeout(self._settings.grace_seconds):
                await kernel.connect()
        except BaseException:
            kernel.close()
            raise
        return Ready(sandbox_id, kernel_key, kernel)

    def connect(self, sandbox_id: str, kernel_key: str) -> KernelClient:
        """Return a client of a running sandbox's kernel, which connects when it is first used."""
        return KernelClient(
            directory=f"{self._sockets}/{sandbox_id}",
            key=kernel_key,
            max_message_bytes=self._settings.max_output_bytes + MESSAGE_SLACK_BYTES,
        )

    async def take_over(self, session: Session) -> None:
        """Become the keeper of a session that another process opened, and listen for it; not if it has a keeper."""
        if self._keepers.keep(session.sandbox_id):
            await self.open_gate(session.sandbox_id, self.policy_for(session.egress))

    async def clear(self, sandbox_id: str) -> None:
        """Let nothing more out of a sandbox, end it, and remove its traces; raises SandboxFailed."""
        self._gates.close(sandbox_id)
        self._launching.discard(sandbox_id)
        self._keepers.let_go(sandbox_id)  # if the engine fails now, whoever finds it tries again
        await self._driver.destroy(sandbox_id)
        self._keepers.forget(sandbox_id)

    async def _clear_if_possible(self, sandbox_id: str) -> None:
        try:
            await self.clear(sandbox_id)
        except ServiceError:  # the launch's own failure is what its caller must hear of
            log.warning("What a failed launch left is cleared away later", exc_info=True)

    async def is_alive(self, sandbox_id: str) -> bool:
        """Whether a sandbox runs."""
        status = await self._driver.inspect(sandbox_id)
        return status is not None and status.is_running

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
