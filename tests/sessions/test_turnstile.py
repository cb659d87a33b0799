"""Turns of one session, among the calls of one process and of two."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tci.errors import TooManyWaiting
from tci.sessions.turnstile import Turnstile
from tci.storage.embedded_redis import open_embedded_redis
from tci.storage.turn_store import TurnStore


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    async with open_embedded_redis(tmp_path) as client:
        yield client


def turnstiles(redis: Redis, count: int = 2) -> list[Turnstile]:
    """Return the turnstiles of so many processes."""
    return [Turnstile(TurnStore(redis, deployment="x"), max_waiting=16) for _ in range(count)]


async def test_calls_of_two_processes_are_served_one_at_a_time_in_order(redis: Redis) -> None:
    pair = turnstiles(redis)
    served: list[int] = []
    inside = 0
    over = asyncio.Event()

    async def call(number: int) -> None:
        nonlocal inside
        async with pair[number % 2].turn("ses_1") as turn:
            inside += 1
            assert inside == 1
            served.append(number)
            await over.wait()
            await asyncio.sleep(0.01)
            inside -= 1
            assert turn.has_waited == (number > 0)

    calls = []
    for number in range(12):
        calls.append(asyncio.create_task(call(number)))
        while await redis.zcard("tci:x:turn:ses_1") <= number:  # noqa: ASYNC110 (its ticket is all that can be seen)
            await asyncio.sleep(0.001)
    over.set()
    await asyncio.gather(*calls)
    assert served == list(range(12))
    assert not any(turnstile.is_busy("ses_1") for turnstile in pair)


async def test_calls_beyond_the_limit_of_all_processes_are_turned_away(redis: Redis) -> None:
    pair = turnstiles(redis)
    over = asyncio.Event()

    async def call(number: int) -> bool:
        try:
            async with pair[number % 2].turn("ses_1"):
                await over.wait()
        except TooManyWaiting:
            return False
        return True

    calls = [asyncio.create_task(call(number)) for number in range(20)]
    await asyncio.sleep(0.3)
    over.set()
    assert sorted(await asyncio.gather(*calls)) == [False] * 3 + [True] * 17


async def test_call_that_leaves_while_it_waits_gives_its_ticket_back(redis: Redis) -> None:
    first, second = turnstiles(redis)

    async def call() -> None:
        async with second.turn("ses_1"):
            pass

    async with first.turn("ses_1"):
        waiting = [asyncio.create_task(call()) for _ in range(3)]
        await asyncio.sleep(0.1)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert not second.is_busy("ses_1")
    async with asyncio.timeout(1), second.turn("ses_1") as turn:
        assert not turn.has_waited


async def test_call_that_leaves_while_it_takes_its_ticket_gives_it_back(redis: Redis) -> None:
    (turnstile,) = turnstiles(redis, 1)

    async def call() -> None:
        async with turnstile.turn("ses_1"):
            await asyncio.sleep(10)

    for passes in range(60):
        task = asyncio.create_task(call())
        for _ in range(passes % 12):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert await redis.zcard("tci:x:turn:ses_1") == 0, passes


async def test_calls_without_redis_are_served_one_at_a_time(tmp_path: Path) -> None:
    turnstile = Turnstile(TurnStore(Redis(unix_socket_path=f"{tmp_path}/none"), deployment="x"), max_waiting=2)
    inside = most = 0

    async def call() -> None:
        nonlocal inside, most
        async with turnstile.turn("ses_1"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    results = await asyncio.gather(*(call() for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results].count(TooManyWaiting) == 2
    assert most == 1
