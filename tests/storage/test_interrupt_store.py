"""Interrupts asked for in one process and answered in another, over Redis of each kind."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tci.errors import Unavailable
from tci.ids import random_text
from tci.storage.interrupt_store import InterruptStore


@pytest.fixture
def store(redis: Redis) -> InterruptStore:
    """The interrupts of a deployment of its own."""
    return InterruptStore(redis, deployment=random_text(12))


@asynccontextmanager
async def listening(store: InterruptStore, *processes: Callable[[str], bool]) -> AsyncIterator[None]:
    """Have processes listen."""
    tasks = [asyncio.create_task(store.listen(process)) for process in processes]
    while await subscribers(store) < len(processes):  # noqa: ASYNC110 (it is Redis that knows)
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)


async def subscribers(store: InterruptStore) -> int:
    [(_, count)] = await store._redis.pubsub_numsub(store._channel)
    return int(count)


async def test_nobody_listens_nothing_is_interrupted(store: InterruptStore) -> None:
    assert await store.ask("ses_1") is False


async def test_process_that_runs_it_interrupts_it(store: InterruptStore) -> None:
    heard: list[tuple[str, str]] = []

    def process(name: str) -> Callable[[str], bool]:
        def interrupt(session_id: str) -> bool:
            heard.append((name, session_id))
            return session_id == f"ses_{name}"

        return interrupt

    async with listening(store, process("a"), process("b"), process("c")):
        assert await store.ask("ses_b") is True
        assert await store.ask("ses_d") is False
        assert sorted(heard)[::2] == [("a", "ses_b"), ("b", "ses_b"), ("c", "ses_b")]
        answers = await asyncio.gather(*(store.ask(f"ses_{name}") for name in "abcd" * 5))
    assert answers == [True, True, True, False] * 5


async def test_nonsense_on_the_channel_is_survived(store: InterruptStore) -> None:
    async with listening(store, lambda session_id: session_id == "ses_a"):
        for nonsense in (b"", b"\xff", b"a b c d"):
            await store._redis.publish(store._channel, nonsense)
        assert await store.ask("ses_a") is True


async def test_listener_whose_connection_breaks_listens_again(store: InterruptStore) -> None:
    async with listening(store, lambda _: True):
        await store._redis.client_kill_filter(_type="pubsub", skipme=False)
        async with asyncio.timeout(20):
            while not await store.ask("ses_a"):  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0.05)


async def test_without_redis_it_is_said(tmp_path: Path) -> None:
    store = InterruptStore(Redis(unix_socket_path=f"{tmp_path}/none"), deployment="x")
    with pytest.raises(Unavailable):
        await store.ask("ses_a")
    listener = asyncio.create_task(store.listen(lambda _: True))
    await asyncio.sleep(0.1)
    assert not listener.done()
    listener.cancel()
    await asyncio.wait({listener})
