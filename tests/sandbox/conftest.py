"""Drivers built in process, and sandboxes made with them."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

import pytest

from tci.ids import new_sandbox_id, random_text
from tci.kernel.client import KernelClient, wait_for_sockets
from tci.kernel.output_buffer import OutputBuffer
from tci.paths import short_path
from tci.sandbox.choose import open_driver
from tci.sandbox.driver import Limits, SandboxDriver, SandboxSpec
from tci.settings import SandboxChoice, Settings
from tests.conftest import CACHE
from tests.sandbox import processes

READY_SECONDS = 30

CGROUPS = Path("/sys/fs/cgroup")


@dataclass
class Bench:
    """Where a driver is tried: its data directory, its deployment, and connections to its kernels."""

    settings: Settings
    deployment: str
    sockets: str
    stack: AsyncExitStack
    driver: SandboxDriver

    async def another_driver(self, *, deployment: str | None = None, **settings: Any) -> SandboxDriver:
        """Return a new object on the same data directory, as a restarted service has."""
        changed = self.settings.model_copy(update=settings)
        return await self.stack.enter_async_context(
            open_driver(changed, deployment=self.deployment if deployment is None else deployment)
        )

    def spec(self, **limits: int) -> SandboxSpec:
        """Return what to launch; without preloaded modules, which take most of a start."""
        sandbox_id = new_sandbox_id()
        defaults = Limits(
            memory_bytes=512 * 1024**2,
            cpus=1.0,
            pids=64,
            disk_bytes=1024**2,
            inodes=1000,
            shm_bytes=1024**2,
            open_files=256,
            output_bytes=1024**2,
        )
        return SandboxSpec(
            sandbox_id=sandbox_id,
            deployment=self.deployment,
            socket_directory=self.settings.run_dir / sandbox_id,
            kernel_key=secrets.token_hex(32),
            limits=replace(defaults, **limits),
        )

    @asynccontextmanager
    async def sandbox(self) -> AsyncIterator["Sandbox"]:
        """Launch a sandbox whose kernel answers, and destroy it afterwards."""
        spec = self.spec()
        await self.driver.launch(spec)
        try:
            async with asyncio.timeout(READY_SECONDS):
                await wait_for_sockets(spec.socket_directory)
                kernel = await self.connect(spec)
                await self.driver.seal(spec)
            yield Sandbox(self, spec, kernel)
        finally:
            await self.driver.destroy(spec.sandbox_id)

    async def connect(self, spec: SandboxSpec) -> KernelClient:
        """Return a client of a kernel that has answered, as the one that opens the session makes it."""
        kernel = self.reconnect(spec)
        await kernel.wait_until_ready()
        return kernel

    def reconnect(self, spec: SandboxSpec) -> KernelClient:
        """Return a new client of a kernel that runs already, as a restarted service makes it."""
        directory = f"{self.sockets}/{spec.sandbox_id}"
        kernel = KernelClient(directory=directory, key=spec.kernel_key, max_message_bytes=1024**2)
        self.stack.callback(kernel.close)
        return kernel

    async def left_of(self, spec: SandboxSpec) -> list[object]:
        """Return whatever can still be found of a sandbox: processes, directory, the driver's own view."""
        found: list[object] = [*sorted(processes.with_environment(spec.kernel_key))]
        # Not Path.glob, which raises when a group of somebody else goes away meanwhile.
        found += glob(f"{CGROUPS}/**/*{spec.sandbox_id}*", recursive=True)  # noqa: PTH207
        if spec.socket_directory.exists():
            found.append(spec.socket_directory)
        if (status := await self.driver.inspect(spec.sandbox_id)) is not None:
            found.append(status)
        if spec.sandbox_id in await self.driver.list_sandboxes():
            found.append("listed")
        return found


@dataclass
class Sandbox:
    """A launched sandbox and a connection to its kernel."""

    bench: Bench
    spec: SandboxSpec
    kernel: KernelClient

    @property
    def id(self) -> str:
        """The sandbox's id."""
        return self.spec.sandbox_id

    async def run(self, code: str) -> str:
        """Run code and return what it printed."""
        return await run(self.kernel, code)


async def run(kernel: KernelClient, code: str) -> str:
    """Run code that must go well and return what it printed."""
    outputs = OutputBuffer(limit=1024**2)
    went_well = await kernel.execute(code, outputs)
    assert went_well, outputs.outputs().items()
    return "".join(str(output.data) for output in outputs.outputs().items())


@pytest.fixture(scope="session")
async def bench(driver: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """A driver on a fresh data directory; what is left of its sandboxes fails the run."""
    data_dir = tmp_path_factory.mktemp(f"bench-{driver}")
    (data_dir / "environments").symlink_to(CACHE / "environments")
    settings = Settings(data_dir=data_dir, sandbox=SandboxChoice(driver), _env_file=None)
    settings.run_dir.mkdir(mode=0o700)
    deployment = f"test{random_text(8)}"
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_driver(settings, deployment=deployment))
        sockets = stack.enter_context(short_path(settings.run_dir))
        yield Bench(settings, deployment, sockets, stack, opened)
        assert await opened.list_sandboxes() == set()
        assert names(settings.run_dir) == []


def names(directory: Path) -> Sequence[str]:
    """Return the names in a directory."""
    return sorted(path.name for path in directory.iterdir())
