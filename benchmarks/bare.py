"""Sandboxes without a service: what starting a container and the kernel in it takes by itself."""

import asyncio
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.raw_kernel import RawKernel
from tci.ids import new_sandbox_id
from tci.kernel.client import wait_for_sockets
from tci.sandbox.choose import open_driver
from tci.sandbox.driver import SandboxDriver
from tci.sandbox.spec import new_spec
from tci.settings import Settings


@dataclass
class BareSandbox:
    """A sandbox whose kernel has answered once."""

    id: str
    directory: Path
    key: str
    kernel: RawKernel
    container_seconds: float
    """Until the engine had created and started it."""
    total_seconds: float
    """Until the first `print(1)` was answered."""


class Bare:
    """Starts and ends sandboxes with the service's own driver."""

    def __init__(self, runner: asyncio.Runner, settings: Settings, driver: SandboxDriver, deployment: str) -> None:
        self._runner = runner
        self._settings = settings
        self._driver = driver
        self._deployment = deployment

    def launch(self, preload: tuple[str, ...] | None = None) -> BareSandbox:
        """Start one."""
        return self._runner.run(self._launch(preload))

    def destroy(self, *sandboxes: BareSandbox) -> None:
        """End some."""
        for sandbox in sandboxes:
            sandbox.kernel.close()
        self._runner.run(self._destroy([sandbox.id for sandbox in sandboxes]))

    def rate(self, count: int, *, parallel: int) -> float:
        """Return how many a second are started, so many at once; ends them afterwards."""
        began = time.perf_counter()
        started = self._runner.run(self._launch_many(count, parallel))
        seconds = time.perf_counter() - began
        self.destroy(*started)
        return count / seconds

    async def _launch(self, preload: tuple[str, ...] | None) -> BareSandbox:
        settings = self._settings if preload is None else self._settings.model_copy(update={"preload": preload})
        spec = new_spec(
            settings, sandbox_id=new_sandbox_id(), deployment=self._deployment, egress_directory=None, has_ca=False
        )
        began = time.perf_counter()
        await self._driver.launch(spec)
        launched = time.perf_counter()
        await wait_for_sockets(spec.socket_directory)
        kernel = await asyncio.to_thread(_first_answer, spec.socket_directory, spec.kernel_key)
        total = time.perf_counter() - began
        return BareSandbox(spec.sandbox_id, spec.socket_directory, spec.kernel_key, kernel, launched - began, total)

    async def _launch_many(self, count: int, parallel: int) -> list[BareSandbox]:
        started = list[BareSandbox]()
        numbers = iter(range(count))

        async def one_after_the_other() -> None:
            for _ in numbers:
                started.append(await self._launch(None))

        async with asyncio.TaskGroup() as group:
            for _ in range(parallel):
                group.create_task(one_after_the_other())
        return started

    async def _destroy(self, sandboxes: list[str]) -> None:
        await asyncio.gather(*map(self._driver.destroy, sandboxes))

    async def destroy_all(self) -> None:
        """End what is left."""
        await self._destroy(list(await self._driver.list_sandboxes()))


@contextmanager
def bare(**settings: object) -> Iterator[Bare]:
    """Open the Docker driver for a deployment of its own."""
    deployment = f"bench-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="tci-") as directory, asyncio.Runner() as runner:
        own = Settings(data_dir=Path(directory), sandbox="docker", _env_file=None, **settings)  # type: ignore[arg-type]
        context = open_driver(own, deployment=deployment)
        driver = runner.run(context.__aenter__())
        opened = Bare(runner, own, driver, deployment)
        try:
            yield opened
        finally:
            runner.run(opened.destroy_all())
            runner.run(context.__aexit__(None, None, None))


def _first_answer(directory: Path, key: str) -> RawKernel:
    kernel = RawKernel(directory, key)
    kernel.run()
    return kernel
