"""Pages of live sessions, the terms they were opened under, and when they were answered, on SQLite and PostgreSQL."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from alembic import command
from tci.settings import EgressPolicy
from tci.storage.account_store import AccountStore, Caller
from tci.storage.database import _alembic_config, migrate
from tci.storage.session_store import EndReason, Session, SessionStore
from tci.storage.tables import accounts as accounts_table
from tci.storage.tables import sessions
from tests.storage.conftest import STARTED_AT, new_caller, new_session

PRICE = Decimal("0.03")

ODD = {
    "a.b-c_1": "\N{SNOWMAN}\N{GRINNING FACE}",
    "quotes": "'single' \"double\" \\",
    "7": "7",
    "true": "true",
    "null": "null",
    "empty": "",
    "json": '{"a": 1}',
    "long": "x" * 512,
}


async def open_all(store: SessionStore, *made: Session) -> None:
    for session in made:
        await store.open(session, price_usd=PRICE)


async def test_terms_read_back_the_same(store: SessionStore, caller: Caller) -> None:
    session = replace(new_session(caller), metadata=ODD, memory_bytes=2**40, cpus=0.25, egress=EgressPolicy.NONE)
    await open_all(store, session)
    assert await store.get(session.id) == session
    [found] = (await store.page(STARTED_AT)).sessions
    assert found == session


@pytest.mark.parametrize("name", ODD)
async def test_metadata_is_found_by_its_text_alone(store: SessionStore, caller: Caller, name: str) -> None:
    with_it, without = replace(new_session(caller), metadata=ODD), new_session(caller)
    await open_all(store, with_it, without)
    assert (await store.page(STARTED_AT, metadata=[(name, ODD[name])])).sessions == [with_it]
    for other in ("other", ODD[name] + "x", "%"):
        assert (await store.page(STARTED_AT, metadata=[(name, other)])).sessions == []
    assert (await store.page(STARTED_AT, metadata=[(name, ODD[name]), ("none", "")])).sessions == []


async def test_pages_go_on_where_the_last_one_ended(store: SessionStore, caller: Caller) -> None:
    """Of sessions that began in the same moment as well."""
    made = [new_session(caller, age_minutes=age) for age in (1, 2, 2, 2, 3)]
    await open_all(store, *made)
    whole = (await store.page(STARTED_AT)).sessions
    assert sorted(whole, key=lambda session: session.id) == sorted(made, key=lambda session: session.id)
    assert [session.started_at for session in whole] == sorted((s.started_at for s in made), reverse=True)
    for limit in (1, 2, 3):
        found, place = [], None
        while True:
            page = await store.page(STARTED_AT, after=place, limit=limit)
            found += page.sessions
            assert len(page.sessions) <= limit
            if (place := page.next) is None:
                break
        assert found == whole


async def test_page_holds_what_is_live_and_its_accounts(
    store: SessionStore, accounts: AccountStore, caller: Caller
) -> None:
    other = await new_caller(accounts, "second")
    mine, ended, expired = (new_session(caller, age_minutes=age) for age in (1, 2, 60))
    theirs = new_session(other)
    await open_all(store, mine, ended, expired, theirs)
    await store.end(ended.id, EndReason.ENDED)
    assert (await store.page(STARTED_AT)).sessions == [theirs, mine]
    assert (await store.page(STARTED_AT, account_id=caller.account_id)).sessions == [mine]
    assert (await store.page(STARTED_AT - dt.timedelta(seconds=1))).sessions[-1] == expired


async def test_first_answer_stands(store: SessionStore, caller: Caller) -> None:
    session = new_session(caller)
    await open_all(store, session)
    for minutes in (1, 2):
        await store.mark_answered(session.id, STARTED_AT + dt.timedelta(minutes=minutes))
    assert await store.get(session.id) == replace(session, answered_at=STARTED_AT + dt.timedelta(minutes=1))
    await store.end(session.id, EndReason.SHUTDOWN)
    bill = await store.bill(session.id)
    assert bill is not None
    assert not bill.is_waived, "its caller had it"


async def test_session_of_before_has_no_terms(empty_engine: AsyncEngine) -> None:
    async with empty_engine.begin() as db:
        await db.run_sync(lambda connection: command.upgrade(_alembic_config(connection), "0004"))
        await db.execute(sa.insert(accounts_table).values(id=1, name="ada", created_at=STARTED_AT))
        moments = dict.fromkeys(("started_at", "last_execute_at", "expires_at"), STARTED_AT)
        row = {"id": "ses_1", "account_id": 1, "sandbox_id": "sbx_1", "kernel_key": "k", "execute_count": 0, **moments}
        await db.execute(sa.insert(sessions).values(row))
    await migrate(empty_engine)
    found = await SessionStore(empty_engine).get("ses_1")
    assert found is not None
    assert (found.metadata, found.memory_bytes, found.cpus) == ({}, None, None)
    async with empty_engine.begin() as db:
        await db.run_sync(lambda connection: command.downgrade(_alembic_config(connection), "0004"))
        columns = await db.run_sync(lambda connection: sa.inspect(connection).get_columns("sessions"))
        left = (await db.execute(sa.text("SELECT id FROM sessions"))).scalars().all()
    assert {column["name"] for column in columns}.isdisjoint({"metadata", "memory_bytes", "cpus"})
    assert left == ["ses_1"]
