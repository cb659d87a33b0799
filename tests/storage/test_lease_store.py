"""The clock and the counters, on the embedded Valkey and on a Redis server."""

import asyncio
import datetime as dt
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from tci.errors import NoCapacity, QuotaReached, ServiceError, SessionLimitReached, SetupError, Unavailable
from tci.ids import new_session_id
from tci.settings import Settings
from tci.storage.account_store import NO_QUOTA, Caller, Quota
from tci.storage.lease_store import Counts, LeaseStore
from tci.storage.redis_client import open_redis
from tci.storage.session_store import Bill, Session
from tests.storage.conftest import new_session

HOUR = dt.timedelta(hours=1)
PRICE = Decimal("0.03")


async def take(
    leases: LeaseStore,
    *,
    account: int = 1,
    key: int = 1,
    own: int = 1000,
    machine: int = 1000,
    window: dt.timedelta = HOUR,
    quota: Quota = NO_QUOTA,
    price: Decimal = PRICE,
) -> str:
    """Reserve a place and return its session's id."""
    session_id = new_session_id()
    await leases.reserve(
        session_id,
        caller=Caller(account_id=account, account="a", key_id=key, quota=quota),
        window=window,
        price_usd=price,
        account_limit=own,
        machine_limit=machine,
    )
    return session_id


def opened(session_id: str, at: dt.datetime, *, account: int = 1, key: int = 1) -> Session:
    """Return the recorded session of a reserved place."""
    session = new_session(Caller(account_id=account, account="a", key_id=key))
    return replace(session, id=session_id, started_at=at, expires_at=at + HOUR)


async def outcomes(*attempts: Any) -> Counter[str]:
    """Await all at once and count what came of them."""
    results = await asyncio.gather(*attempts, return_exceptions=True)
    return Counter(result.code if isinstance(result, ServiceError) else type(result).__name__ for result in results)


async def test_reserve_returns_the_start_by_the_clock_of_redis(leases: LeaseStore) -> None:
    before = await leases.now()
    started_at = await leases.reserve(
        "ses_1",
        caller=Caller(account_id=1, account="a"),
        window=HOUR,
        price_usd=PRICE,
        account_limit=1,
        machine_limit=1,
    )
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
    session = opened(await take(leases, own=1, machine=1), await leases.now())
    await leases.release(session)
    await leases.release(session)
    await take(leases, own=1, machine=1)


async def test_abandoned_place_is_free_again_and_not_counted(leases: LeaseStore) -> None:
    session_id = await take(leases, account=7, own=1, machine=1)
    assert (await leases.counts(account_id=7)).sessions_of_day == 1
    await leases.abandon(session_id)
    await leases.abandon(session_id)
    assert await leases.counts(account_id=7) == NOTHING
    await take(leases, account=7, own=1, machine=1)


NOTHING = Counts(0, 0, 0, Decimal(0), Decimal(0))


async def test_place_is_due_when_its_time_is_over(leases: LeaseStore) -> None:
    over = await take(leases, window=dt.timedelta(seconds=-1))
    at_once = await take(leases, window=dt.timedelta(0))
    later = await take(leases, window=dt.timedelta(milliseconds=300))
    await take(leases, window=HOUR)
    assert set(await leases.due()) == {over, at_once}
    await asyncio.sleep(0.35)
    assert set(await leases.due()) == {over, at_once, later}
    await leases.abandon(over)
    assert set(await leases.due()) == {at_once, later}


async def test_confirmed_place_lasts_until_the_session_expires(leases: LeaseStore) -> None:
    session = opened(await take(leases, window=dt.timedelta(0)), await leases.now())
    assert await leases.places() == set()
    await leases.confirm(session, price_usd=PRICE)
    await leases.confirm(session, price_usd=PRICE)
    assert await leases.due() == []
    assert await leases.places() == {session.id}
    assert await leases.counts(account_id=1) == Counts(1, 1, 1, PRICE, PRICE)
    assert await leases.counts(key_id=1) == Counts(1, 1, 1, PRICE, PRICE)


async def test_waived_bill_is_taken_back_once(leases: LeaseStore) -> None:
    now = await leases.now()
    for _ in range(2):
        session = opened(await take(leases), now)
        await leases.confirm(session, price_usd=PRICE)
    waived = Bill(session.id, 1, 1, PRICE, session.started_at, is_waived=True)
    await leases.count(waived)
    await leases.count(waived)
    assert await leases.counts(account_id=1) == Counts(2, 1, 1, PRICE, PRICE)


@pytest.mark.parametrize(
    ("quota", "says"),
    [
        (Quota(max_sessions=2), "sessions at once: 2"),
        (Quota(max_sessions_per_day=2), r"sessions a day \(UTC\): 2"),
        (Quota(max_spend_per_month_usd=Decimal("0.08")), r"dollars a month \(UTC\): 0.08"),
    ],
    ids=["at_once", "day", "month"],
)
async def test_third_session_of_a_key_is_over_its_quota(leases: LeaseStore, quota: Quota, says: str) -> None:
    for _ in range(2):
        await take(leases, quota=quota)
    with pytest.raises(QuotaReached, match=says) as refusal:
        await take(leases, quota=quota)
    assert refusal.value.retry_after is not None
    assert 0 < refusal.value.retry_after <= 60
    await take(leases, key=2, quota=quota)
    assert (await leases.counts(key_id=1)).sessions_of_day == 2, "what is refused is not counted"


async def test_quota_of_a_day_holds_against_fifty_at_once(leases: LeaseStore) -> None:
    found = await outcomes(*(take(leases, quota=Quota(max_sessions_per_day=10)) for _ in range(50)))
    assert found == {"str": 10, QuotaReached.code: 40}


async def test_executions_over_the_rate_of_a_key_are_refused(leases: LeaseStore) -> None:
    caller = Caller(account_id=1, account="a", key_id=3, quota=Quota(max_executions_per_minute=5))
    found = await outcomes(*(leases.require_rate(caller) for _ in range(20)))
    assert 5 <= found["NoneType"] <= 10, "a new minute may have begun"
    assert found["rate_limited"] == 20 - found["NoneType"]


async def test_recount_makes_the_counters_of_the_month_anew(leases: LeaseStore, redis: Redis) -> None:
    now = await leases.now()
    sessions = [opened(await take(leases, account=number % 2), now, account=number % 2) for number in range(5)]
    bills = [Bill(s.id, s.account_id, 1, PRICE, now, is_waived=s is sessions[0]) for s in sessions]
    assert not await leases.is_current()
    for _ in range(2):
        await leases.recount(bills, month=now)
        assert await leases.is_current()
        assert (await leases.counts(account_id=0)).spend_of_month_usd == 2 * PRICE
        assert (await leases.counts(account_id=1)).spend_of_month_usd == 2 * PRICE
        assert (await leases.counts(key_id=1)).sessions_of_day == 4
    await redis.flushall()
    assert not await leases.is_current()


async def test_lease_is_held_by_one_until_it_lets_go(leases: LeaseStore) -> None:
    assert await leases.hold("reaper", "a", ttl=HOUR)
    assert await leases.hold("reaper", "a", ttl=HOUR)
    assert not await leases.hold("reaper", "b", ttl=HOUR)
    await leases.let_go("reaper", "b")
    assert not await leases.hold("reaper", "b", ttl=HOUR)
    await leases.let_go("reaper", "a")
    assert await leases.hold("reaper", "b", ttl=dt.timedelta(milliseconds=50))
    await asyncio.sleep(0.1)
    assert await leases.hold("reaper", "a", ttl=HOUR), "its time was over"


async def test_restore_after_flush_puts_every_place_back(leases: LeaseStore, redis: Redis) -> None:
    now = await leases.now()
    live = [new_session(Caller(account_id=number % 2, account="a")) for number in range(6)]
    live = [replace(session, expires_at=now + HOUR) for session in live]
    live[0] = replace(live[0], expires_at=now - HOUR)
    await redis.flushall()
    await leases.restore(live)
    assert await leases.due() == [live[0].id]
    with pytest.raises(NoCapacity):
        await take(leases, machine=6)
    with pytest.raises(SessionLimitReached):
        await take(leases, account=1, own=3)
    await take(leases, account=1, own=4, machine=7)


async def test_restore_of_what_is_there_changes_nothing(leases: LeaseStore, redis: Redis) -> None:
    now = await leases.now()
    session = replace(new_session(Caller(account_id=1, account="a")), expires_at=now + HOUR)
    await leases.restore([session])
    await leases.restore([session])
    await leases.restore([])
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
        leases.release(session),
        leases.abandon("ses_1"),
        leases.confirm(session, price_usd=PRICE),
        leases.is_current(),
        leases.now(),
        leases.due(),
        leases.restore([session]),
    )
    assert await outcomes(*attempts) == {Unavailable.code: 8}
    assert await leases.now_or_ours() <= dt.datetime.now(dt.UTC)
    await leases.require_rate(Caller(account_id=1, account="a", quota=Quota(max_executions_per_minute=1)))
