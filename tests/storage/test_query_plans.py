"""With a hundred thousand past sessions the lists read by index: no query looks at what it does not show."""

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tci.settings import Settings
from tci.storage.account_store import AccountStore
from tci.storage.database import migrate, open_database
from tci.storage.session_store import SessionStore
from tci.storage.usage_store import Period, UsageStore
from tests.storage import history

NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
NAMES = [f"account{number}" for number in range(20)]
MONTH = Period.month(NOW.date())

BIG = ("sessions", "ledger")
"""The tables that grow for ever."""


@pytest.fixture(scope="module", params=["sqlite", "sqlite without statistics", "postgresql"])
async def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[AsyncEngine]:
    """A database with a year's sessions of twenty accounts."""
    url = request.getfixturevalue("new_postgresql")() if request.param == "postgresql" else None
    data_dir = tmp_path_factory.mktemp("history")
    async with open_database(Settings(data_dir=data_dir, database_url=url, _env_file=None)) as engine:
        await migrate(engine)
        await history.fill(engine, NOW, names=NAMES, span=dt.timedelta(days=365))
        if "without" not in request.param:
            async with engine.begin() as db:
                await db.execute(text("ANALYZE"))
        yield engine


@contextmanager
def statements_of(engine: AsyncEngine) -> Iterator[list[tuple[str, Any]]]:
    """Give what is sent to the database meanwhile."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        sent.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


async def plan_of(engine: AsyncEngine, ask: Callable[[], Awaitable[Any]]) -> str:
    """Return the database's own plan for the one query that something sends."""
    with statements_of(engine) as sent:
        await ask()
    [(statement, parameters)] = sent
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    async with engine.connect() as db:
        lines = (await db.exec_driver_sql(f"{explain} {statement}", parameters)).all()
    return "\n".join(str(line[-1]) for line in lines)


def scanned(plan: str) -> set[str]:
    """Return the big tables of which a plan reads every row, or every entry of an index."""
    return {table for table in BIG if f"Seq Scan on {table}" in plan or f"SCAN {table}" in plan}


async def account_id(engine: AsyncEngine) -> int:
    found = await AccountStore(engine).find(NAMES[0])
    assert found is not None
    return found


async def test_live_sessions_of_an_account_are_read_by_index(filled: AsyncEngine) -> None:
    store, owner = SessionStore(filled), await account_id(filled)
    assert len(await store.list_live(account_id=owner)) == history.LIVE
    plan = await plan_of(filled, lambda: store.list_live(account_id=owner))
    assert scanned(plan) == set(), plan
    assert "ix_sessions_" in plan


async def test_live_sessions_of_all_are_read_by_index(filled: AsyncEngine) -> None:
    store = SessionStore(filled)
    assert len(await store.list_live()) == history.LIVE
    plan = await plan_of(filled, store.list_live)
    assert scanned(plan) == set(), plan
    assert "ix_sessions_ended_at" in plan


@pytest.mark.parametrize("is_one", [True, False], ids=["one account", "all accounts"])
async def test_pages_of_live_sessions_are_read_by_index(filled: AsyncEngine, is_one: bool) -> None:
    store, owner = SessionStore(filled), await account_id(filled) if is_one else None
    first = await store.page(NOW, account_id=owner, limit=100)
    assert len(first.sessions) == 100
    for query in ({"limit": 100}, {"limit": 100, "after": first.next}, {"metadata": [("job", "a")]}):
        plan = await plan_of(filled, lambda: store.page(NOW, account_id=owner, **query))  # noqa: B023 (called at once)
        assert scanned(plan) == set(), plan
        assert "ix_sessions_" in plan


@pytest.mark.parametrize("is_one", [True, False], ids=["one account", "all accounts"])
async def test_usage_by_day_is_read_by_index(filled: AsyncEngine, is_one: bool) -> None:
    store, owner = UsageStore(filled), await account_id(filled) if is_one else None
    days = await store.days(MONTH, account_id=owner)
    assert len(days) == 20 * (1 if is_one else len(NAMES))
    plan = await plan_of(filled, lambda: store.days(MONTH, account_id=owner))
    assert scanned(plan) == set(), plan
    assert ("ix_ledger_account_id_day_" if is_one else "ix_ledger_day_") in plan


@pytest.mark.parametrize("limit", [100, 1000])
@pytest.mark.parametrize("is_one", [True, False], ids=["one account", "all accounts"])
async def test_usage_by_session_is_read_by_index(filled: AsyncEngine, is_one: bool, limit: int) -> None:
    store, owner = UsageStore(filled), await account_id(filled) if is_one else None
    first = await store.sessions(MONTH, account_id=owner, limit=limit)
    assert len(first.sessions) == limit
    plan = await plan_of(filled, lambda: store.sessions(MONTH, account_id=owner, limit=limit))
    assert scanned(plan) == set(), plan
    later = await plan_of(filled, lambda: store.sessions(MONTH, account_id=owner, after=first.next, limit=limit))
    assert scanned(later) == set(), later
    assert "created_at" in plan
    assert "created_at" in later


async def test_query_without_an_index_is_found(filled: AsyncEngine) -> None:
    """The checks above can fail."""

    async def ask() -> None:
        async with filled.connect() as db:
            await db.execute(text("SELECT count(*) FROM sessions WHERE execute_count = 3"))
            await db.rollback()

    assert scanned(await plan_of(filled, ask)) == {"sessions"}
