"""Floods: code that takes all it can get, while a neighbour goes on answering and the host's disk stays as it is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tci.kernel.zmtp import ConnectionLost
from tests.hostile import host
from tests.hostile.cases import FLOODS, IMPORTS
from tests.hostile.conftest import answering
from tests.sandbox.conftest import Bench, Sandbox, run
from tests.sandbox.processes import eventually

FLOOD_SECONDS = 3.0

LONGEST_ANSWER_SECONDS = 5.0
"""A neighbour's 1 + 1 takes some milliseconds; this machine has two cores, and other tests run on it."""

MEBIBYTE = 1024**2


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.replace(" ", "_"))
async def test_flood_stays_in_its_sandbox_and_the_neighbour_answers(
    flood: str, bench: Bench, neighbour: Sandbox
) -> None:
    async with bench.sandbox() as sandbox:
        places = host.places_of(sandbox.id, sandbox.spec.socket_directory)
        before = places.bytes_on_disk()
        async with answering(neighbour) as times, flooding(sandbox, FLOODS[flood]):
            await asyncio.sleep(FLOOD_SECONDS)
            grown = places.bytes_on_disk() - before
        assert grown < MEBIBYTE, "the host's disk grew"
        assert len(times) > 3
        assert max(times) < LONGEST_ANSWER_SECONDS
    assert eventually(lambda: not places.tasks()), "the flood goes on"
    assert await bench.left_of(sandbox.spec) == []


async def test_processes_of_a_fork_bomb_are_not_more_than_the_limit(bench: Bench) -> None:
    async with bench.sandbox() as sandbox, flooding(sandbox, FLOODS["fork"]):
        places, counted = host.places_of(sandbox.id, sandbox.spec.socket_directory), 0
        for _ in range(20):
            await asyncio.sleep(0.1)
            counted = max(counted, len(places.tasks()))
    assert sandbox.spec.limits.pids // 2 < counted <= sandbox.spec.limits.pids


async def test_session_answers_again_after_its_own_flood_was_interrupted(bench: Bench) -> None:
    async with bench.sandbox() as sandbox:
        await sandbox.run(IMPORTS)
        async with flooding(sandbox, FLOODS["disk"]):
            await asyncio.sleep(0.5)
            await sandbox.kernel.interrupt()
        assert await sandbox.run("print(6 * 7)") == "42\n"


@asynccontextmanager
async def flooding(sandbox: Sandbox, code: str) -> AsyncIterator[None]:
    """Run a flood while the block lasts. Its sandbox may well die of it; the end of the block waits for no answer."""
    flood = asyncio.create_task(run(sandbox.kernel, IMPORTS + code))
    try:
        yield
    finally:
        await asyncio.wait({flood}, timeout=1.0)
        flood.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionLost, AssertionError):
            await flood
