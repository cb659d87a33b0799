"""What the client of Redis does wrong is mended where its errors become ours."""

import asyncio
import random
from pathlib import Path

from tci.storage.embedded_redis import open_embedded_redis
from tci.storage.turn_store import TurnStore


async def test_call_that_is_cancelled_at_any_moment_of_a_command_goes_no_further(tmp_path: Path) -> None:
    dice = random.Random(1)  # noqa: S311 (not for secrets)
    went_on = cancelled = 0

    async def call() -> None:
        nonlocal went_on
        await turns.show("ses_1", "ticket")
        went_on += asyncio.current_task().cancelling()  # type: ignore[union-attr]  # a coroutine that runs is in a task

    async with open_embedded_redis(tmp_path) as redis:
        turns = TurnStore(redis, deployment="x")
        for _ in range(2000):
            task = asyncio.create_task(call())
            for _ in range(dice.randrange(1, 8)):
                await asyncio.sleep(0)
            await asyncio.sleep(dice.random() * 0.0003)
            cancelled += task.cancel()
            await asyncio.wait({task})
    assert cancelled > 100, "nearly all were done before"
    assert went_on == 0
