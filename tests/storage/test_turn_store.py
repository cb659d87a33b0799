"""Tickets for the turns of a session, on the embedded Valkey and on a Redis server."""

import asyncio

import pytest
from redis.asyncio import Redis

from tci.storage import turn_store
from tci.storage.turn_store import TurnStore


@pytest.fixture
def turns(redis: Redis) -> TurnStore:
    return TurnStore(redis, deployment="turns")


async def test_tickets_stand_in_the_order_in_which_they_were_taken(turns: TurnStore) -> None:
    tickets = [f"{number:x}" for number in range(15, 0, -1)]
    assert [(await turns.show("s", ticket, max_waiting=16)).before for ticket in tickets] == list(range(15))
    await turns.give_back("s", tickets[:2])
    assert [(await turns.show("s", ticket)).before for ticket in tickets[2:]] == list(range(13))
    assert (await turns.show("other", "a", max_waiting=0)).before == 0


async def test_one_ticket_too_many_is_not_taken(turns: TurnStore) -> None:
    taken = await asyncio.gather(*(turns.show("full", str(number), max_waiting=16) for number in range(30)))
    assert sorted(place.before for place in taken if place.before is not None) == list(range(17))
    refused = next(str(number) for number, place in enumerate(taken) if place.before is None)
    held = next(str(number) for number, place in enumerate(taken) if place.before == 0)
    await turns.give_back("full", [held])
    assert (await turns.show("full", refused, max_waiting=16)).before == 16


async def test_ticket_of_a_dead_process_lets_the_next_one_pass(
    turns: TurnStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_store, "PATIENCE", turn_store.dt.timedelta(milliseconds=200))
    await turns.show("dead", "first", max_waiting=16)
    assert (await turns.show("dead", "second", max_waiting=16)).before == 1
    for _ in range(4):
        await asyncio.sleep(0.1)
        place = await turns.show("dead", "second")
    assert place.before == 0


async def test_ticket_that_redis_has_lost_is_taken_again(turns: TurnStore, redis: Redis) -> None:
    await turns.show("lost", "mine", max_waiting=16)
    await redis.flushall()
    assert (await turns.show("lost", "mine")).before == 0


async def test_session_is_ours_until_another_process_has_had_its_turn(redis: Redis) -> None:
    first, second = (TurnStore(redis, deployment="turns") for _ in range(2))
    await redis.zadd("tci:turns:sessions", {"s": 1})

    async def is_ours(turns: TurnStore, ticket: str) -> bool:
        place = await turns.show("s", ticket)
        await turns.give_back("s", [ticket])
        return place.is_ours

    assert [await is_ours(first, ticket) for ticket in "ab"] == [False, True]
    await first.show("s", "c")
    await first.keep("s", "c")
    assert (await second.show("s", "d")).before == 1
    await first.give_back("s", ["c"])
    await second.keep("s", "d")  # as a process does with all of its tickets, just before the call looks
    assert not (await second.show("s", "d")).is_ours
    await second.give_back("s", ["d"])
    assert [await is_ours(first, ticket) for ticket in "ef"] == [False, True]
