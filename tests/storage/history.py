"""A database with a past: a hundred thousand sessions that are over, and a thousand live ones of one account."""

import datetime as dt
import itertools
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from tci.storage.account_store import AccountStore
from tci.storage.session_store import EndReason
from tci.storage.tables import accounts, ledger, sessions

PAST = 100_000
LIVE = 1_000
ROWS_AT_ONCE = 5_000
PRICE = Decimal("0.03")
HOUR = dt.timedelta(hours=1)


async def fill(engine: AsyncEngine, now: dt.datetime, *, names: list[str], span: dt.timedelta) -> None:
    """Spread past sessions evenly over accounts and a span that ends now; the live ones are the first account's."""
    store = AccountStore(engine)
    for name in names:
        await store.create_key(name)
    async with engine.begin() as db:
        ids = {row.name: row.id for row in await db.execute(select(accounts))}
        owners = [ids[name] for name in names]
        rows = itertools.chain(_past(now, owners, span), _live(now, owners[0]))
        while block := list(itertools.islice(rows, ROWS_AT_ONCE)):
            await db.execute(insert(sessions), block)
            await db.execute(insert(ledger), [_bill(row) for row in block])


def _past(now: dt.datetime, owners: list[int], span: dt.timedelta) -> Iterator[dict[str, Any]]:
    for number, owner in zip(range(PAST), itertools.cycle(owners), strict=False):
        started_at = now - HOUR - span * (number / PAST)
        row = _session(number, owner, started_at, count=number % 7)
        yield row | {"ended_at": started_at + HOUR, "end_reason": EndReason.EXPIRED.value}


def _live(now: dt.datetime, owner: int) -> Iterator[dict[str, Any]]:
    for number in range(PAST, PAST + LIVE):
        started_at = now - HOUR / 2 * ((number - PAST) / LIVE)
        yield _session(number, owner, started_at, count=1) | {"ended_at": None, "end_reason": None}


def _session(number: int, owner: int, started_at: dt.datetime, *, count: int) -> dict[str, Any]:
    text = f"{number:021}".replace("0", "A")  # ids have no 0
    return {
        "id": f"ses_{text}",
        "account_id": owner,
        "sandbox_id": f"sbx_{text}",
        "kernel_key": text * 3,
        "started_at": started_at,
        "last_execute_at": started_at,
        "expires_at": started_at + HOUR,
        "execute_count": count,
        "egress": "none",
        "answered_at": started_at,
    }


def _bill(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "session_id": row["id"],
        "account_id": row["account_id"],
        "amount_usd": PRICE,
        "created_at": row["started_at"],
        "day": row["started_at"].date(),
    }
