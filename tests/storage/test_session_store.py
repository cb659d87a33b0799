"""Sessions and the ledger, on SQLite and PostgreSQL."""

import asyncio
import datetime as dt
from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from tci.storage.account_store import AccountStore, Caller
from tci.storage.session_store import EndReason, SessionStore
from tci.storage.tables import ledger, sessions
from tests.storage.conftest import STARTED_AT, new_caller, new_session

PRICE = Decimal("0.030001")


async def rows(engine: AsyncEngine, table: Any) -> list[Any]:
    """Return every row of a table."""
    async with engine.connect() as db:
        return list((await db.execute(select(table))).all())


async def test_opened_session_reads_back_the_same(store: SessionStore, caller: Caller) -> None:
    session = new_session(caller)
    await store.open(session, price_usd=PRICE)
    assert await store.get(session.id) == session
    assert session.is_live


async def test_opened_session_is_billed_once_and_exactly(
    store: SessionStore, caller: Caller, engine: AsyncEngine
) -> None:
    session = new_session(caller)
    await store.open(session, price_usd=PRICE)
    [bill] = await rows(engine, ledger)
    day = STARTED_AT.date()
    assert tuple(bill) == (session.id, caller.account_id, PRICE, STARTED_AT, caller.key_id, None, day)


@pytest.mark.parametrize("reason", EndReason)
@pytest.mark.parametrize("is_answered", [True, False], ids=["answered", "unanswered"])
async def test_end_by_our_fault_before_an_answer_is_waived(
    store: SessionStore, caller: Caller, engine: AsyncEngine, reason: EndReason, is_answered: bool
) -> None:
    session = new_session(caller)
    await store.open(session, price_usd=PRICE)
    if is_answered:
        await store.count_execution(session.id, STARTED_AT)
    assert await store.end(session.id, reason) is reason
    [bill] = await rows(engine, ledger)
    ours = reason in {EndReason.SHUTDOWN, EndReason.LOST, EndReason.FAILED}
    assert (bill.waived_at is not None) == (ours and not is_answered)
    assert bill.amount_usd == PRICE


async def test_opened_twice_is_billed_once(store: SessionStore, caller: Caller, engine: AsyncEngine) -> None:
    session = new_session(caller)
    await store.open(session, price_usd=PRICE)
    for again in (session, replace(session, id="ses_other")):  # the same id, the same sandbox
        with pytest.raises(IntegrityError):
            await store.open(again, price_usd=PRICE)
    assert len(await rows(engine, ledger)) == len(await rows(engine, sessions)) == 1


async def test_session_that_can_not_be_billed_is_not_recorded(
    store: SessionStore, caller: Caller, engine: AsyncEngine
) -> None:
    with pytest.raises(IntegrityError):
        await store.open(new_session(caller), price_usd=cast("Decimal", None))
    assert await rows(engine, sessions) == await rows(engine, ledger) == []


async def test_session_of_no_account_is_neither_recorded_nor_billed(store: SessionStore, engine: AsyncEngine) -> None:
    with pytest.raises(IntegrityError):
        await store.open(new_session(Caller(account_id=4711, account="nobody")), price_usd=PRICE)
    assert await rows(engine, sessions) == await rows(engine, ledger) == []


async def test_unknown_session_is_none(store: SessionStore) -> None:
    assert await store.get("ses_unknown") is None
    assert await store.get("") is None
    await store.end("ses_unknown", EndReason.ENDED)


async def test_live_sessions_are_listed_newest_first(
    store: SessionStore, accounts: AccountStore, caller: Caller
) -> None:
    other = await new_caller(accounts, "second")
    made = [new_session(who, age_minutes=age) for who, age in ((caller, 5), (caller, 1), (other, 3), (caller, 9))]
    for session in made:
        await store.open(session, price_usd=PRICE)
    oldest_first = sorted(made, key=lambda session: session.started_at)
    assert await store.list_live() == oldest_first[::-1]
    assert await store.list_live(account_id=other.account_id) == [made[2]]
    await store.end(made[1].id, EndReason.ENDED)
    assert await store.list_live(account_id=caller.account_id) == [made[0], made[3]]
    assert await store.list_live(account_id=4711) == []


async def test_executions_are_counted_one_by_one(store: SessionStore, caller: Caller) -> None:
    session = new_session(caller)
    await store.open(session, price_usd=PRICE)
    at = STARTED_AT + dt.timedelta(minutes=3)
    assert [await store.count_execution(session.id, at) for _ in range(3)] == [1, 2, 3]
    assert await store.get(session.id) == replace(session, execute_count=3, last_execute_at=at, answered_at=at)


async def test_execution_that_the_database_has_not_heard_of_yet_is_counted_with_the_next(
    store: SessionStore, caller: Caller
) -> None:
    session = new_session(caller)
    await store.open(session, price_usd=PRICE)
    assert await store.count_execution(session.id, STARTED_AT, known=1) == 2
    assert await store.count_unless_counted(session.id, STARTED_AT - dt.timedelta(seconds=1), known=0) == 2


@pytest.mark.parametrize("was_counted", [True, False])
@pytest.mark.parametrize("others", [0, 1])
async def test_execution_whose_counting_broke_off_is_counted_once(
    store: SessionStore, caller: Caller, was_counted: bool, others: int
) -> None:
    """Another process may have counted one of its own meanwhile."""
    session = new_session(caller)
    await store.open(session, price_usd=PRICE)
    at = STARTED_AT + dt.timedelta(minutes=1)
    if was_counted:
        await store.count_execution(session.id, at)
    for number in range(others):
        await store.count_execution(session.id, at + dt.timedelta(seconds=number + 1))
    for _ in range(2):
        assert await store.count_unless_counted(session.id, at, known=0) == 1 + others
    found = await store.get(session.id)
    assert found is not None
    assert found.last_execute_at == at + dt.timedelta(seconds=others)


async def test_executions_at_once_are_all_counted(store: SessionStore, caller: Caller) -> None:
    session = new_session(caller)
    await store.open(session, price_usd=PRICE)
    counts = await asyncio.gather(*(store.count_execution(session.id, STARTED_AT) for _ in range(20)))
    assert sorted(counts) == list(range(1, 21))


async def test_ended_session_keeps_its_first_reason(store: SessionStore, caller: Caller) -> None:
    session = new_session(caller)
    await store.open(session, price_usd=PRICE)
    assert await store.end(session.id, EndReason.TIMEOUT)
    first = await store.get(session.id)
    assert first is not None
    assert not first.is_live
    assert first.end_reason == EndReason.TIMEOUT
    assert first.ended_at is not None
    assert await store.end(session.id, EndReason.EXPIRED) is EndReason.TIMEOUT
    assert await store.get(session.id) == first


async def test_ended_at_once_ends_once(store: SessionStore, caller: Caller) -> None:
    session = new_session(caller)
    await store.open(session, price_usd=PRICE)
    ended = await asyncio.gather(*(store.end(session.id, reason) for reason in EndReason))
    assert len(set(ended)) == 1, "all are told the first reason"


@pytest.mark.parametrize("reason", list(EndReason))
async def test_every_reason_fits_its_column(store: SessionStore, caller: Caller, reason: EndReason) -> None:
    session = new_session(caller)
    await store.open(session, price_usd=PRICE)
    assert await store.end(session.id, reason) is reason


async def test_deployment_is_named_once(store: SessionStore, engine: AsyncEngine) -> None:
    name = await store.deployment_id()
    assert len(name) == 12
    assert await SessionStore(engine).deployment_id() == name


async def test_deployment_asked_for_at_once_is_named_once(store: SessionStore) -> None:
    """Two names would make each process take the other's sandboxes for a neighbour's, for ever."""
    assert len(set(await asyncio.gather(*(store.deployment_id() for _ in range(8))))) == 1
