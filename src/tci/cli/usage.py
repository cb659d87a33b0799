"""`tci usage`: what accounts are billed, as a table by day or as CSV by session."""

import asyncio
import csv
import datetime as dt
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from tci.settings import Settings
from tci.storage.account_store import AccountStore
from tci.storage.database import open_database, require_current_schema
from tci.storage.usage_store import DayUsage, Period, SessionUsage, UsageStore, in_dollars, total

COLUMNS = ("session_id", "account", "started_at", "ended_at", "end_reason", "execute_count", "amount_usd", "waived")


def show_usage(
    account: Annotated[str | None, typer.Option(help="The account; left out: every account.")] = None,
    month: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="A month of UTC; left out: this one.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line a session, newest first.")] = False,
) -> None:
    """Print what was billed in a month: by day with a total, or as CSV by session."""
    asyncio.run(_print_usage(_period(month), account, as_csv=as_csv))


async def _print_usage(period: Period, account: str | None, *, as_csv: bool) -> None:
    async with _open_usage(account) as (usage, account_id):
        if as_csv:
            await _print_csv(usage.every_session(period, account_id=account_id))
        else:
            typer.echo("\n".join(_table(await usage.days(period, account_id=account_id))))


@asynccontextmanager
async def _open_usage(account: str | None) -> AsyncIterator[tuple[UsageStore, int | None]]:
    """Open the database; the number is the account's, None for all."""
    async with open_database(Settings()) as engine:
        await require_current_schema(engine)
        account_id = None
        if account is not None:
            account_id = await AccountStore(engine).find(account)
            if account_id is None:
                sys.exit(f"tci: there is no account {account}")
        yield UsageStore(engine), account_id


def _period(month: str | None) -> Period:
    """Read `2026-11`."""
    if month is None:
        return Period.month(dt.datetime.now(dt.UTC).date())
    try:
        day = dt.date.fromisoformat(f"{month}-01")
    except ValueError:
        day = dt.date.max
    if day.year == dt.MAXYEAR:  # it has no day after its last
        raise typer.BadParameter(f"'{month}' is not a month as 2026-11.", param_hint="--month")
    return Period.month(day)


def _table(days: Iterable[DayUsage]) -> list[str]:
    listed = list(days)
    in_all = total(listed)
    rows = [
        ("date", "account", "sessions", "USD"),
        *((str(day.date), day.account, str(day.sessions), in_dollars(day.amount_usd)) for day in listed),
        ("total", "", str(in_all.sessions), in_dollars(in_all.amount_usd)),
    ]
    first, second, third, fourth = (max(len(cell) for cell in column) for column in zip(*rows, strict=True))
    return [
        f"{date:<{first}}  {account:<{second}}  {sessions:>{third}}  {amount:>{fourth}}"
        for date, account, sessions, amount in rows
    ]


async def _print_csv(sessions: AsyncIterator[SessionUsage]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    async for session in sessions:
        writer.writerow(_cells(session))


def _cells(session: SessionUsage) -> tuple[object, ...]:
    return (
        session.id,
        session.account,
        _moment(session.started_at),
        _moment(session.ended_at),
        session.end_reason or "",
        session.execute_count,
        in_dollars(session.amount_usd),
        "yes" if session.waived else "no",
    )


def _moment(moment: dt.datetime | None) -> str:
    return "" if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
