"""What was opened and what it costs: the ledger, by day and by session."""

import calendar
import datetime as dt
import itertools
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from sqlalchemy import ColumnElement, Row, Select, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from tci.storage.database import reading
from tci.storage.tables import UtcDateTime, accounts, ledger, sessions

NOTHING = Decimal(0)
ONE_DAY = dt.timedelta(days=1)
PAGE = 1000
"""Sessions that are read at once where all are given."""


def in_dollars(amount: Decimal) -> str:
    """Return an amount as text: exact, and with cents at least."""
    exponent = min(int(amount.normalize().as_tuple().exponent), -2)
    return f"{amount.quantize(Decimal(1).scaleb(exponent)):f}"


@dataclass(frozen=True, slots=True)
class Period:
    """Days of UTC, the last one included."""

    first: dt.date
    last: dt.date

    @classmethod
    def month(cls, day: dt.date) -> Self:
        """Return the month that a day is in."""
        _, length = calendar.monthrange(day.year, day.month)
        return cls(day.replace(day=1), day.replace(day=length))

    @property
    def start(self) -> dt.datetime:
        """Its first moment."""
        return _midnight(self.first)

    @property
    def stop(self) -> dt.datetime:
        """The first moment that is not in it any more."""
        return _midnight(self.last + ONE_DAY)


@dataclass(frozen=True, slots=True)
class Totals:
    """How many sessions were billed, and for how much."""

    sessions: int
    amount_usd: Decimal


@dataclass(frozen=True, slots=True)
class DayUsage:
    """What one account was billed on one day of UTC."""

    date: dt.date
    account: str
    sessions: int
    amount_usd: Decimal


@dataclass(frozen=True, slots=True)
class AccountUsage:
    """What one account was billed in a period, and what it was not."""

    account: str
    sessions: int
    amount_usd: Decimal
    waived: int


@dataclass(frozen=True, slots=True)
class SessionUsage:
    """One session and its bill."""

    id: str
    account: str
    started_at: dt.datetime
    ended_at: dt.datetime | None
    end_reason: str | None
    execute_count: int
    amount_usd: Decimal
    waived: bool
    """Whether it costs nothing because the service failed it."""

    @property
    def position(self) -> "Position":
        """Where it stands in the list."""
        return Position(self.started_at, self.id)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the list of sessions, newest first; those that are opened meanwhile do not move it."""

    started_at: dt.datetime
    session_id: str


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some sessions, newest first, and where the next page goes on."""

    sessions: list[SessionUsage]
    next: Position | None


class UsageStore:
    """Reads the ledger. What was waived is listed, and counts and costs nothing."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def days(self, period: Period, *, account_id: int | None = None) -> list[DayUsage]:
        """Return the days with bills, oldest first, of one account or of each."""
        async with reading(self._engine) as db:
            rows = (await db.execute(days_query(period, account_id))).all()
        grouped = itertools.groupby(rows, key=lambda row: (row.day, row.name))
        return [_day(date, account, prices) for (date, account), prices in grouped]

    async def accounts(self, period: Period) -> list[AccountUsage]:
        """Return every account with a bill in the period, by name."""
        async with reading(self._engine) as db:
            rows = (await db.execute(accounts_query(period))).all()
        return [_account(name, list(bills)) for name, bills in itertools.groupby(rows, key=lambda row: row.name)]

    async def sessions(
        self, period: Period, *, account_id: int | None = None, after: Position | None = None, limit: int
    ) -> SessionPage:
        """Return so many sessions from a place on, newest first, of one account or of all."""
        query = sessions_query(period, account_id, after).limit(limit + 1)
        async with reading(self._engine) as db:
            found = [_session(row) for row in await db.execute(query)]
        page = found[:limit]
        return SessionPage(sessions=page, next=page[-1].position if len(found) > limit else None)

    async def every_session(self, period: Period, *, account_id: int | None = None) -> AsyncIterator[SessionUsage]:
        """Give all sessions, newest first, without holding them all."""
        page = await self.sessions(period, account_id=account_id, limit=PAGE)
        while True:
            for session in page.sessions:
                yield session
            if page.next is None:
                return
            page = await self.sessions(period, account_id=account_id, after=page.next, limit=PAGE)


def total(days: Iterable[DayUsage]) -> Totals:
    """Add days up."""
    listed = list(days)
    return Totals(sum(day.sessions for day in listed), sum((day.amount_usd for day in listed), NOTHING))


def days_query(period: Period, account_id: int | None) -> Select[Any]:
    """Count bills by day, account and price; to add up prices is left to Python, SQLite would do it in binary."""
    # In the order of an index: neither database sorts what may be a hundred thousand bills.
    of_account = (ledger.c.account_id, ledger.c.day)
    order = of_account[::-1] if account_id is None else of_account
    counted = (
        select(*order, ledger.c.amount_usd, func.count().label("bills"))
        .where(ledger.c.day.between(period.first, period.last), ledger.c.waived_at.is_(None), *_of(account_id))
        .group_by(*order, ledger.c.amount_usd)
        .subquery()
    )
    return (
        select(counted.c.day, accounts.c.name, counted.c.amount_usd, counted.c.bills)
        .join(accounts, accounts.c.id == counted.c.account_id)
        .order_by(counted.c.day, accounts.c.name)
    )


def accounts_query(period: Period) -> Select[Any]:
    """Count bills by account and price, waived ones apart."""
    is_waived = ledger.c.waived_at.is_not(None).label("is_waived")
    counted = (
        select(ledger.c.account_id, ledger.c.amount_usd, is_waived, func.count().label("bills"))
        .where(ledger.c.day.between(period.first, period.last))
        .group_by(ledger.c.account_id, ledger.c.amount_usd, is_waived)
        .subquery()
    )
    return (
        select(accounts.c.name, counted.c.amount_usd, counted.c.is_waived, counted.c.bills)
        .join(accounts, accounts.c.id == counted.c.account_id)
        .order_by(accounts.c.name)
    )


def sessions_query(period: Period, account_id: int | None, after: Position | None) -> Select[Any]:
    """Join bills with their sessions, newest first; a page begins after a key, so that late ones cost no more."""
    return (
        select(
            ledger.c.session_id.label("id"),
            accounts.c.name.label("account"),
            ledger.c.created_at.label("started_at"),
            sessions.c.ended_at,
            sessions.c.end_reason,
            sessions.c.execute_count,
            ledger.c.amount_usd,
            ledger.c.waived_at,
        )
        .join(sessions, sessions.c.id == ledger.c.session_id)
        .join(accounts, accounts.c.id == ledger.c.account_id)
        .where(ledger.c.created_at >= period.start, *_before(period, after), *_of(account_id))
        .order_by(ledger.c.created_at.desc(), ledger.c.session_id.desc())
    )


def _before(period: Period, after: Position | None) -> tuple[ColumnElement[bool], ...]:
    if after is None or after.started_at >= period.stop:
        return (ledger.c.created_at < period.stop,)
    place = tuple_(ledger.c.created_at, ledger.c.session_id)
    key = tuple_(literal(after.started_at, UtcDateTime), literal(after.session_id))
    # The first says no more than the second, but SQLite looks it up; of a pair it would try every bill of the period.
    return (ledger.c.created_at <= after.started_at, place < key)


def _of(account_id: int | None) -> tuple[ColumnElement[bool], ...]:
    return () if account_id is None else (ledger.c.account_id == account_id,)


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC)


def _day(date: dt.date, account: str, prices: Iterable[Row[Any]]) -> DayUsage:
    counted = [(row.amount_usd, row.bills) for row in prices]
    amount = sum((price * bills for price, bills in counted), NOTHING)
    return DayUsage(date=date, account=account, sessions=sum(bills for _, bills in counted), amount_usd=amount)


def _account(name: str, rows: list[Row[Any]]) -> AccountUsage:
    billed = [row for row in rows if not row.is_waived]
    return AccountUsage(
        account=name,
        sessions=sum(row.bills for row in billed),
        amount_usd=sum((row.amount_usd * row.bills for row in billed), NOTHING),
        waived=sum(row.bills for row in rows if row.is_waived),
    )


def _session(row: Row[Any]) -> SessionUsage:
    return SessionUsage(
        id=row.id,
        account=row.account,
        started_at=row.started_at,
        ended_at=row.ended_at,
        end_reason=row.end_reason,
        execute_count=row.execute_count,
        amount_usd=NOTHING if row.waived_at else row.amount_usd,
        waived=row.waived_at is not None,
    )
