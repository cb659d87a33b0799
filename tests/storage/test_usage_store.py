"""What the ledger says by day and by session, on SQLite and PostgreSQL."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tci.storage.account_store import AccountStore, Caller
from tci.storage.session_store import EndReason, Session, SessionStore
from tci.storage.usage_store import DayUsage, Period, SessionUsage, Totals, UsageStore, in_dollars, total
from tests.storage.conftest import STARTED_AT, new_caller, new_session

PRICE = Decimal("0.03")
DAY = STARTED_AT.date()
MONTH = Period.month(DAY)
MICROSECOND = dt.timedelta(microseconds=1)


@pytest.fixture
def usage(engine: AsyncEngine) -> UsageStore:
    """The usage, on each server."""
    return UsageStore(engine)


async def opened(
    store: SessionStore, caller: Caller, started_at: dt.datetime = STARTED_AT, price: Decimal = PRICE
) -> Session:
    """Open a session at a moment."""
    session = replace(new_session(caller), started_at=started_at)
    await store.open(session, price_usd=price)
    return session


async def test_session_reads_back_with_its_bill(store: SessionStore, caller: Caller, usage: UsageStore) -> None:
    session = await opened(store, caller)
    await store.count_execution(session.id, STARTED_AT)
    [listed] = (await usage.sessions(MONTH, limit=100)).sessions
    assert listed == SessionUsage(session.id, "first", STARTED_AT, None, None, 1, PRICE, waived=False)
    await store.end(session.id, EndReason.EXPIRED)
    [ended] = (await usage.sessions(MONTH, limit=100)).sessions
    assert ended.ended_at is not None
    assert ended == replace(listed, ended_at=ended.ended_at, end_reason="expired")


async def test_days_are_counted_in_utc_by_account(
    store: SessionStore, accounts: AccountStore, caller: Caller, usage: UsageStore
) -> None:
    other = await new_caller(accounts, "a second")
    midnight = dt.datetime.combine(DAY, dt.time(), dt.UTC)
    ahead = dt.timezone(dt.timedelta(hours=14))  # where the next day has begun
    for who, started_at in (
        (caller, midnight - MICROSECOND),
        (caller, midnight),
        (caller, (midnight + dt.timedelta(days=1) - MICROSECOND).astimezone(ahead)),
        (other, midnight),
    ):
        await opened(store, who, started_at)
    before = DayUsage(DAY - dt.timedelta(days=1), "first", 1, PRICE)
    ours, theirs = DayUsage(DAY, "first", 2, 2 * PRICE), DayUsage(DAY, "a second", 1, PRICE)
    assert await usage.days(MONTH) == [before, theirs, ours]
    assert await usage.days(MONTH, account_id=caller.account_id) == [before, ours]
    assert await usage.days(Period(DAY, DAY), account_id=caller.account_id) == [ours]
    assert await usage.days(Period(DAY, DAY), account_id=4711) == []


async def test_sessions_of_a_period_are_those_of_its_days(
    store: SessionStore, caller: Caller, usage: UsageStore
) -> None:
    midnight = dt.datetime.combine(DAY, dt.time(), dt.UTC)
    end = midnight + dt.timedelta(days=1)
    made = [
        await opened(store, caller, moment) for moment in (midnight - MICROSECOND, midnight, end - MICROSECOND, end)
    ]
    page = await usage.sessions(Period(DAY, DAY), limit=100)
    assert [session.id for session in page.sessions] == [made[2].id, made[1].id]
    assert page.next is None


async def test_amounts_of_different_prices_add_up_exactly(
    store: SessionStore, caller: Caller, usage: UsageStore
) -> None:
    prices = [Decimal("0.1"), Decimal("0.2"), Decimal("0.1"), Decimal("0.000001"), Decimal("12345678.9")]
    for price in prices:
        await opened(store, caller, price=price)
    [day] = await usage.days(MONTH)
    assert day == DayUsage(DAY, "first", 5, Decimal("12345679.300001"))
    listed = [session.amount_usd for session in (await usage.sessions(MONTH, limit=100)).sessions]
    assert sorted(listed) == sorted(prices)


async def test_waived_session_is_listed_and_costs_nothing(
    store: SessionStore, caller: Caller, usage: UsageStore
) -> None:
    lost, kept = await opened(store, caller), await opened(store, caller, STARTED_AT + MICROSECOND)
    await store.end(lost.id, EndReason.LOST)
    assert await usage.days(MONTH) == [DayUsage(DAY, "first", 1, PRICE)]
    listed = {
        session.id: (session.amount_usd, session.waived)
        for session in (await usage.sessions(MONTH, limit=100)).sessions
    }
    assert listed == {lost.id: (Decimal(0), True), kept.id: (PRICE, False)}


async def test_day_on_which_all_is_waived_is_left_out(store: SessionStore, caller: Caller, usage: UsageStore) -> None:
    await store.end((await opened(store, caller)).id, EndReason.FAILED)
    assert await usage.days(MONTH) == []
    assert total(await usage.days(MONTH)) == Totals(0, Decimal(0))


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_pages_give_every_session_once(
    store: SessionStore, caller: Caller, usage: UsageStore, limit: int
) -> None:
    moments = [STARTED_AT] * 4 + [STARTED_AT - MICROSECOND, STARTED_AT, STARTED_AT - dt.timedelta(days=1)]
    made = [await opened(store, caller, moment) for moment in moments]
    found: list[str] = []
    page = await usage.sessions(MONTH, account_id=caller.account_id, limit=limit)
    while page.next is not None:
        found += [session.id for session in page.sessions]
        assert len(page.sessions) == limit
        await opened(store, caller, STARTED_AT + dt.timedelta(seconds=len(found)))  # newer: on no page that follows
        page = await usage.sessions(MONTH, account_id=caller.account_id, after=page.next, limit=limit)
    found += [session.id for session in page.sessions]
    newest_first = sorted(made, key=lambda session: (session.started_at, session.id), reverse=True)
    assert found == [session.id for session in newest_first]


async def test_every_session_is_given_over_many_pages(
    store: SessionStore, caller: Caller, usage: UsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [await opened(store, caller, STARTED_AT - number * MICROSECOND) for number in range(5)]
    monkeypatch.setattr("tci.storage.usage_store.PAGE", 2)
    assert [session.id async for session in usage.every_session(MONTH)] == [session.id for session in made]


async def test_position_after_the_period_begins_it(store: SessionStore, caller: Caller, usage: UsageStore) -> None:
    later, inside = await opened(store, caller, STARTED_AT + dt.timedelta(days=1)), await opened(store, caller)
    [found] = (await usage.sessions(Period(DAY + dt.timedelta(days=1), DAY + dt.timedelta(days=1)), limit=1)).sessions
    assert found.id == later.id
    page = await usage.sessions(Period(DAY, DAY), after=found.position, limit=100)
    assert [session.id for session in page.sessions] == [inside.id]


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("0", "0.00"),
        ("0.03", "0.03"),
        ("0.030000", "0.03"),
        ("0.3", "0.30"),
        ("0.030001", "0.030001"),
        ("100", "100.00"),
        ("1E+3", "1000.00"),
        ("12345678901234.000001", "12345678901234.000001"),
    ],
)
def test_amount_is_written_exactly_with_cents(amount: str, expected: str) -> None:
    assert in_dollars(Decimal(amount)) == expected


@pytest.mark.parametrize(
    ("day", "last"), [("2026-02-11", "2026-02-28"), ("2028-02-01", "2028-02-29"), ("2026-12-31", "2026-12-31")]
)
def test_month_of_a_day_has_its_length(day: str, last: str) -> None:
    date = dt.date.fromisoformat(day)
    assert Period.month(date) == Period(date.replace(day=1), dt.date.fromisoformat(last))
