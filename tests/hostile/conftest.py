"""Sandboxes under attack, decoys on the host, and the table at the end: which control stops what."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tci.doctor.attacks import Attack, plant_code
from tci.doctor.attacks.toolkit import Target
from tci.doctor.decoys import aimed_at, decoys
from tci.doctor.outcome import Outcome, run, try_attack
from tests.sandbox.conftest import Bench, Sandbox, bench

__all__ = ["bench"]

ATTACK_SECONDS = 60


@pytest.fixture(scope="session")
async def target(bench: Bench) -> AsyncIterator[Target]:
    """Decoys on this host, and what the attacks are told of them."""
    async with decoys(host_paths=[bench.settings.data_dir, bench.settings.run_dir], host_ports=[5432, 6379]) as found:
        yield aimed_at(found, bench.spec().limits)


@pytest.fixture(scope="session")
async def neighbour(bench: Bench, target: Target) -> AsyncIterator[Sandbox]:
    """Another session, which holds the marker wherever one could be found."""
    async with bench.sandbox() as sandbox:
        assert await run(sandbox.kernel, plant_code(target)) == "held: planted\n"
        yield sandbox


@pytest.fixture(scope="session")
async def victim(bench: Bench, neighbour: Sandbox) -> AsyncIterator[Sandbox]:
    """The sandbox that is attacked from within, beside its neighbour."""
    assert await answers(neighbour)
    async with bench.sandbox() as sandbox:
        yield sandbox


async def attacked(sandbox: Sandbox, attack: Attack, target: Target) -> Outcome:
    """Carry out an attack, which must not take for ever."""
    async with asyncio.timeout(ATTACK_SECONDS):
        return await try_attack(sandbox.kernel, attack, target)


async def answers(sandbox: Sandbox, seconds: float = 20.0) -> bool:
    """Whether a session still does what it is told, and may still start a process.

    A limit of processes that counts those of a user, not of a sandbox, would let one starve all others.
    """
    async with asyncio.timeout(seconds):
        return await sandbox.run("import subprocess; subprocess.run(['true'], check=True); print(1 + 1)") == "2\n"


@asynccontextmanager
async def answering(sandbox: Sandbox) -> AsyncIterator[list[float]]:
    """Ask a session for 1 + 1 again and again while the block lasts; yield how long each answer took."""
    times: list[float] = []
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()

    async def ask() -> None:
        while not is_over.is_set():
            start = loop.time()
            assert await answers(sandbox)
            times.append(loop.time() - start)
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        group.create_task(ask())
        try:
            yield times
        finally:
            is_over.set()  # not cancelled: a question cut in the middle would leave its answer to the next


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was open without each control."""
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == "control"
    ]
    if not rows:
        return
    terminalreporter.section("Without a control, what is open")
    for control, driver, found in sorted(rows):
        terminalreporter.write_line(f"{control:<34} {driver:<11} {found}")
