"""Time of the lists over HTTP with 100,000 past sessions and 1,000 live ones, on SQLite and PostgreSQL.

    python -m benchmarks.history [--requests 200]

Each database is filled twice: a year of twenty accounts, and one account that opened all of it in this month.
"""

import argparse
import asyncio
import datetime as dt
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tci.settings import Settings
from tci.storage.account_store import AccountStore
from tci.storage.database import open_database
from tci.storage.tables import ledger, sessions
from tests.conftest import CACHE, Service, clean_environment, run_tci, serving
from tests.storage import history, servers

WARM_UP = 5
FOREVER = 10**6
DRIVER = "bubblewrap"
"""No code is run here, so it does not matter; this one is there wherever the tests are."""


@dataclass(frozen=True)
class Past:
    """How the past sessions are spread."""

    name: str
    accounts: list[str]
    span: dt.timedelta


def pasts() -> list[Past]:
    """Return the two; the span of a month stays in the month."""
    month = dt.timedelta(days=dt.datetime.now(dt.UTC).day - 1)
    return [
        Past("a year, 20 accounts", [f"account{number}" for number in range(20)], dt.timedelta(days=365)),
        Past(f"{month.days} days, 1 account", ["account0"], month),
    ]


async def fill(settings: Settings, past: Past) -> tuple[str, str]:
    """Fill the database; return a key of the account with the live sessions and one that sees all."""
    async with open_database(settings) as engine:
        await history.fill(engine, dt.datetime.now(dt.UTC), names=past.accounts, span=past.span)
        await settle(engine)
        store = AccountStore(engine)
        return await store.create_key(past.accounts[0]), await store.create_key("operator", is_admin=True)


async def settle(engine: AsyncEngine) -> None:
    """Do what PostgreSQL's autovacuum does within a minute; SQLite is measured as it is served, without statistics."""
    if engine.dialect.name == "postgresql":
        async with engine.connect() as db:
            await (await db.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM ANALYZE"))


async def empty(settings: Settings) -> None:
    """Take the sessions away: none of them has a sandbox, and the service would end each at its stop."""
    async with open_database(settings) as engine, engine.begin() as db:
        await db.execute(delete(ledger))
        await db.execute(delete(sessions))


@contextmanager
def filled_service(past: Past, url: str) -> Iterator[tuple[Service, str, str]]:
    """Serve a filled database; give the service and the two keys."""
    with tempfile.TemporaryDirectory(prefix="tci-") as directory:
        options = {"database_url": url, "reconcile_interval_seconds": FOREVER}
        with serving(DRIVER, Path(directory) / "data", **options) as service:
            settings = Settings(data_dir=service.data_dir, database_url=url or None, _env_file=None)
            try:
                yield service, *asyncio.run(fill(settings, past))
            finally:
                asyncio.run(empty(settings))


def measure(service: Service, key: str, path: str, requests: int) -> list[float]:
    """Return the milliseconds of each request, on one connection."""
    found = []
    for number in range(WARM_UP + requests):
        began = time.perf_counter()
        answer = service.client.get(path, headers={"Authorization": f"Bearer {key}"})
        elapsed = (time.perf_counter() - began) * 1000
        assert answer.status_code == 200, answer.text
        if number >= WARM_UP:
            found.append(elapsed)
    return found


def measure_all(database: str, new_url: Callable[[], str], requests: int) -> None:
    for past in pasts():
        with filled_service(past, new_url()) as (service, own, admin):
            assert len(service.client.get("/tci/sessions", headers={"Authorization": f"Bearer {own}"}).text) > 100_000
            for key, path, what in (
                (own, "/tci/sessions", "GET /tci/sessions, 1,000 live"),
                (own, "/tci/usage", "GET /tci/usage"),
                (own, "/tci/usage?limit=1000", "GET /tci/usage?limit=1000"),
                (admin, "/tci/usage", "GET /tci/usage, every account"),
            ):
                times = measure(service, key, path, requests)
                median, high = statistics.median(times), statistics.quantiles(times, n=20)[-1]
                print(f"{database:<10}  {past.name:<20}  {what:<30}  {median:>7.1f}  {high:>7.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=200)
    requests: int = parser.parse_args().requests
    run_tci("sandbox", "prepare", environment=clean_environment(CACHE, sandbox=DRIVER))
    print(f"{'database':<10}  {'100,000 past':<20}  {'request':<30}  {'median':>7}  {'95 %':>7}  (ms)")
    measure_all("SQLite", lambda: "", requests)
    with servers.postgresql() as new_database:
        measure_all("PostgreSQL", new_database, requests)


if __name__ == "__main__":
    main()
