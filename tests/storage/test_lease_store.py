"""The clock and the counters, on the embedded Valkey and on a Redis server."""

import asyncio
import datetime as dt
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from tci.errors import NoCapacity, ServiceError, SessionLimitReached, SetupError, Unavailable
from tci.ids import new_session_id
from tci.settings import Settings
from tci.storage.account_store import Caller
from tci.storage.lease_store import LeaseStore, open_redis
from tests.storage.conftest import new_session

HOUR = dt.timedelta(hours=1)


async def take(leases: LeaseStore, *, account: int = 1, own: int = 1000, machine: int = 1000, **rest: Any) -> str:
    """Reserve a place and return its session's id."""
    session_id: str = rest.pop("session_id", None) or new_session_id()
    ttl = rest.pop("ttl", HOUR)
    await leases.reserve(session_id, account_id=account, ttl=ttl, account_limit=own, machine_limit=machine)
    return session_id


async def outcomes(*attempts: Any) -> Counter[str]:
    """Await all at once and count what came of them."""
    results = await asyncio.gather(*attempts, return_exceptions=True)
    return Counter(result.code if isinstance(result, ServiceError) else type(result).__name__ for result in results)


async def test_reserve_returns_the_start_by_the_clock_of_redis(leases: LeaseStore) -> None:
    before = await leases.now()
    started_at = await leases.reserve("ses_1", account_id=1, ttl=HOUR, account_limit=1, machine_limit=1)
    after = await leases.now()
    assert before - dt.timedelta(milliseconds=1) <= started_at <= after
    assert started_at.utcoffset() == dt.timedelta(0)


async def test_account_limit_holds_against_fifty_at_once(leases: LeaseStore) -> None:
    found = await outcomes(*(take(leases, own=10) for _ in range(50)))
    assert found == {"str": 10, SessionLimitReached.code: 40}


async def test_machine_limit_holds_against_fifty_accounts_at_once(leases: LeaseStore) -> None:
    found = await outcomes(*(take(leases, account=number, machine=10) for number in range(50)))
    assert found == {"str": 10, NoCapacity.code: 40}


async def test_limit_of_one_account_is_not_that_of_another(leases: LeaseStore) -> None:
    await take(leases, account=1, own=1)
    await take(leases, account=2, own=1)
    with pytest.raises(SessionLimitReached):
        await take(leases, account=1, own=1)


async def test_other_deployment_on_the_same_server_has_its_own_places(leases: LeaseStore, redis: Redis) -> None:
    await take(leases, machine=1)
    await take(LeaseStore(redis, deployment="neighbour"), machine=1)


async def test_released_place_is_free_again(leases: LeaseStore) -> None:
    session_id = await take(leases, own=1, machine=1)
    await leases.release(session_id, account_id=1)
    await leases.release(session_id, account_id=1)
    await take(leases, own=1, machine=1)


async def test_forgotten_place_is_free_again_whoever_took_it(leases: LeaseStore) -> None:
    session_id = await take(leases, account=7, own=1, machine=1)
    await leases.forget(session_id)
    await take(leases, account=7, own=1, machine=1)


async def test_place_is_due_when_its_time_is_over(leases: LeaseStore) -> None:
    over = await take(leases, ttl=dt.timedelta(seconds=-1))
    at_once = await take(leases, ttl=dt.timedelta(0))
    later = await take(leases, ttl=dt.timedelta(milliseconds=300))
    await take(leases, ttl=HOUR)
    assert set(await leases.due()) == {over, at_once}
    await asyncio.sleep(0.35)
    assert set(await leases.due()) == {over, at_once, later}
    await leases.release(over, account_id=1)
    assert set(await leases.due()) == {at_once, later}


async def test_rebuild_after_flush_puts_every_place_back(leases: LeaseStore, redis: Redis) -> None:
    now = await leases.now()
    live = [new_session(Caller(account_id=number % 2, account="a")) for number in range(6)]
    live = [replace(session, expires_at=now + HOUR) for session in live]
    live[0] = replace(live[0], expires_at=now - HOUR)
    await redis.flushall()
    await leases.rebuild(live)
    assert await leases.due() == [live[0].id]
    with pytest.raises(NoCapacity):
        await take(leases, machine=6)
    with pytest.raises(SessionLimitReached):
        await take(leases, account=1, own=3)
    await take(leases, account=1, own=4, machine=7)


async def test_rebuild_of_what_is_there_changes_nothing(leases: LeaseStore, redis: Redis) -> None:
    now = await leases.now()
    session = replace(new_session(Caller(account_id=1, account="a")), expires_at=now + HOUR)
    await leases.rebuild([session])
    await leases.rebuild([session])
    await leases.rebuild([])
    await take(leases, own=2, machine=2)
    with pytest.raises(SessionLimitReached):
        await take(leases, own=2, machine=3)
    assert await redis.ping()


async def test_reserve_works_after_the_scripts_are_flushed(leases: LeaseStore, redis: Redis) -> None:
    await take(leases)
    await redis.script_flush()
    await take(leases)


async def test_unreachable_server_is_refused_at_the_start(tmp_path: Path) -> None:
    url = SecretStr(f"unix://{tmp_path}/none.sock")
    settings = Settings(data_dir=tmp_path, redis_url=url, _env_file=None)
    with pytest.raises(SetupError, match="TCI_REDIS_URL"):
        async with open_redis(settings):
            pass


async def test_server_that_has_gone_is_unavailable(tmp_path: Path) -> None:
    leases = LeaseStore(Redis(unix_socket_path=f"{tmp_path}/none.sock"), deployment="x")
    session = new_session(Caller(account_id=1, account="a"))
    attempts = (
        take(leases),
        leases.release("ses_1", account_id=1),
        leases.forget("ses_1"),
        leases.now(),
        leases.due(),
        leases.rebuild([session]),
    )
    assert await outcomes(*attempts) == {Unavailable.code: 6}
