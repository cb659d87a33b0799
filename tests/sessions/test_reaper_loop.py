"""The background loops end when they are told to, whatever they are doing."""

import asyncio
from pathlib import Path

import pytest

from tci.sessions.reaper import _repeat
from tci.storage.embedded_redis import open_embedded_redis
from tci.storage.lease_store import LeaseStore


async def test_loop_told_to_stop_in_a_redis_call_ends(tmp_path: Path) -> None:
    """redis-py swallows about every second cancellation that comes while it reads."""
    async with open_embedded_redis(tmp_path) as redis:
        leases = LeaseStore(redis, deployment="x")

        async def look() -> None:
            await leases.due()

        await look()
        for turns in range(24):
            loop = asyncio.create_task(_repeat("reap", look, 0.01))
            for _ in range(turns % 12):
                await asyncio.sleep(0)
            loop.cancel()
            done, _ = await asyncio.wait({loop}, timeout=0.5)
            if not done:
                loop.cancel()
                await asyncio.wait({loop}, timeout=0.5)
            assert done, f"the loop went on after it was cancelled in its turn {turns % 12}"


async def test_pass_that_fails_does_not_end_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    passes = 0

    async def fail() -> None:
        nonlocal passes
        passes += 1
        raise ValueError("broken")

    loop = asyncio.create_task(_repeat("reap", fail, 0.001))
    while passes < 3:
        assert not loop.done()
        await asyncio.sleep(0.01)
    loop.cancel()
    await asyncio.wait({loop})
    assert loop.cancelled(), caplog.text
