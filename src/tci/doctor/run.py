"""Examines an installation: its machine, its settings, and a real sandbox of its own, which is attacked."""

import asyncio
import shutil
import signal
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tci.doctor import attacks, host
from tci.doctor.attacks import Attack
from tci.doctor.attacks.toolkit import Target
from tci.doctor.decoys import aimed_at, decoys
from tci.doctor.engine import engine_access, look_at_engine
from tci.doctor.finding import Finding, Level, hole, judged, ok, weak
from tci.doctor.installation import look_at_installation
from tci.doctor.outcome import try_attack
from tci.doctor.report import Report
from tci.egress.gate import Gates
from tci.egress.open import effective_policy, make_gates, run_proxy
from tci.errors import KernelFailed, LaunchTimeout, SandboxFailed, SetupError
from tci.guard import reachable_engine
from tci.ids import new_sandbox_id, random_text
from tci.kernel.client import KernelClient, MessageLost, wait_for_sockets
from tci.kernel.zmtp import ConnectionLost
from tci.paths import make_private, short_path
from tci.sandbox import choose
from tci.sandbox.bubblewrap import find_bwrap
from tci.sandbox.cgroup import can_make_cgroups
from tci.sandbox.docker import engine_url, open_docker
from tci.sandbox.driver import Progress, SandboxDriver, SandboxSpec
from tci.sandbox.spec import new_spec
from tci.settings import SandboxChoice, Settings

ATTACK_SECONDS = 60.0
"""How long an attack may take."""


MEMORY_OF_ALL = {"shared_pages"}
"""Attacks that only a control group stops: without one each process is limited by itself. A weakness that is told."""

NO_GROUPS = "Run the service as root, or use a Docker engine for strangers' code."


async def examine(settings: Settings, progress: Progress) -> Report:
    """Look at everything and attack a sandbox. Cancelled by SIGINT and SIGTERM, it leaves nothing behind either."""
    with _cancelled_by_signals():
        findings: list[Finding] = []
        progress("Looking at this machine.")
        findings += host.look_at_host()
        findings.append(host.disk("disk of the data", settings.data_dir))
        progress("Looking at the settings and the data.")
        findings += [finding async for finding in look_at_installation(settings)]
        try:
            async for finding in _look_at_driver(settings, progress):
                findings.append(finding)
            stopped = await _attack(settings, progress)
        except (SetupError, SandboxFailed) as error:
            findings.append(hole("sandbox", f"there is none to attack: {error}", "Mend that, and ask again."))
            stopped = []
        return Report(tuple(findings), tuple(stopped))


async def _look_at_driver(settings: Settings, progress: Progress) -> AsyncIterator[Finding]:
    engine = await engine_url(settings)
    shown = choose.shown_paths(settings)
    yield judged("engine's socket", reachable_engine(engine, shown), "where no sandbox sees it" if engine else "none")
    yield engine_access(engine, settings)
    choice, reason = await choose.choose(settings)
    yield ok("driver", f"{choice.value} ({reason})")
    policy = effective_policy(settings)
    yield ok("egress", policy.value if policy is settings.egress else f"{policy.value}, since Squid is not installed")
    progress(f"Looking at the driver, {choice.value}.")
    if choice is SandboxChoice.BUBBLEWRAP:
        for finding in host.look_at_bubblewrap(find_bwrap()):
            yield finding
        return
    async with open_docker(settings) as docker:
        info = await docker.system.info()
        for finding in look_at_engine(await docker.version(), info, settings):
            yield finding
        for finding in host.disk_of_engine(Path(str(info.get("DockerRootDir")))):
            yield finding


async def _attack(settings: Settings, progress: Progress) -> list[Finding]:
    """Run every attack; after one that the sandbox did not survive, the next begins with a new one."""
    pending = deque(attacks.ATTACKS)
    choice, _reason = await choose.choose(settings)
    limits_all = choice is SandboxChoice.DOCKER or can_make_cgroups()
    findings = []
    async with _bench(settings) as bench, decoys(host_paths=(settings.data_dir,), host_ports=(settings.port,)) as found:
        while pending:
            progress("Launching a sandbox.")
            async with bench.sandbox() as (spec, kernel):
                target = aimed_at(found, spec.limits)
                is_alive = True
                while pending and is_alive:
                    attack = pending.popleft()
                    progress(f"Attacking: {attack.name}.")
                    finding, is_alive = await run_attack(kernel, attack, target, limits_all=limits_all)
                    findings.append(finding)
    return findings


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the doctor's sandboxes are: settings, a deployment and a way out of their own."""

    settings: Settings
    deployment: str
    driver: SandboxDriver
    gates: Gates
    sockets: str

    @asynccontextmanager
    async def sandbox(self) -> AsyncIterator[tuple[SandboxSpec, KernelClient]]:
        """Launch a sandbox as a session's is launched, and destroy it afterwards."""
        sandbox_id = new_sandbox_id()
        try:
            policy = effective_policy(self.settings)
            spec = new_spec(
                self.settings,
                sandbox_id=sandbox_id,
                deployment=self.deployment,
                egress_directory=await self.gates.open(sandbox_id, policy),
                has_ca=self.gates.has_ca,
            )
            kernel = KernelClient(
                directory=f"{self.sockets}/{sandbox_id}",
                key=spec.kernel_key,
                max_message_bytes=2 * self.settings.max_output_bytes,
            )
            with closing(kernel):
                await self._launch(spec, kernel)
                yield spec, kernel
        finally:
            self.gates.close(sandbox_id)
            await self.driver.destroy(sandbox_id)

    async def _launch(self, spec: SandboxSpec, kernel: KernelClient) -> None:
        seconds = self.settings.launch_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                await self.driver.launch(spec)
                await wait_for_sockets(spec.socket_directory)
                await kernel.wait_until_ready()
                await self.driver.seal(spec)
        except TimeoutError:
            raise LaunchTimeout(seconds) from None
        except (ConnectionLost, MessageLost) as error:
            raise SandboxFailed("The kernel closed its connection while it was starting.") from error


@asynccontextmanager
async def _bench(settings: Settings) -> AsyncIterator[Bench]:
    """Make a data directory for the doctor alone, in the installation's: on the same file system, with short paths.

    The sandboxes of a service that runs on the same data are neither seen nor touched, nor does it see these.
    """
    deployment = f"doctor-{random_text(8)}"
    mine = settings.model_copy(update={"data_dir": settings.data_dir / deployment})
    is_new = not settings.data_dir.exists()
    make_private(mine.run_dir)
    try:
        (mine.data_dir / "environments").symlink_to(settings.data_dir / "environments")
        async with AsyncExitStack() as stack:
            driver = await stack.enter_async_context(choose.open_driver(mine, deployment=deployment))
            sockets = stack.enter_context(short_path(mine.run_dir))
            gates = make_gates(mine, sockets=sockets)
            stack.callback(gates.close_all)
            await stack.enter_async_context(_beside(run_proxy(mine)))
            yield Bench(mine, deployment, driver, gates, sockets)
    finally:
        shutil.rmtree(mine.data_dir, ignore_errors=True)
        if is_new:
            settings.data_dir.rmdir()


@asynccontextmanager
async def _beside(loop: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a loop for as long as the block lasts, and wait until it has cleaned up."""
    task = asyncio.create_task(loop, name="the doctor's proxy")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def run_attack(kernel: KernelClient, attack: Attack, target: Target, *, limits_all: bool) -> tuple[Finding, bool]:
    """Run an attack and return its verdict, and whether the sandbox can be used on."""
    try:
        async with asyncio.timeout(ATTACK_SECONDS):
            outcome = await try_attack(kernel, attack, target)
    except (TimeoutError, ConnectionLost, MessageLost, KernelFailed) as error:
        reason = "it took too long" if isinstance(error, TimeoutError) else "the kernel ended"
        return _no_verdict(attack, reason), False
    if not outcome.is_held and attack.name in MEMORY_OF_ALL and not limits_all:
        return replace(weak(attack.name, outcome.detail, NO_GROUPS), tried=attack.tries), True
    level = Level.OK if outcome.is_held else Level.HOLE
    return Finding(level, attack.name, outcome.detail, tried=attack.tries), True


def _no_verdict(attack: Attack, reason: str) -> Finding:
    """What can't be shown to hold counts as open."""
    found = hole(attack.name, f"no verdict: {reason}", "Ask again; if it stays, report it (docs/security.md).")
    return replace(found, tried=attack.tries)


@contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """Let the first signal cancel this task. A second one, say of an impatient Ctrl-C, must not cut the clean-up."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None  # noqa: S101 (for the type checker: a coroutine runs in one)

    def cancel() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, cancel)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
