"""Each store on each server that it may stand on."""

import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tci.ids import new_sandbox_id, new_session_id, random_text
from tci.settings import Settings
from tci.storage.account_store import AccountStore, Caller
from tci.storage.database import migrate, open_database
from tci.storage.lease_store import LeaseStore
from tci.storage.redis_client import open_redis
from tci.storage.session_store import Session, SessionStore
from tests.storage import servers

STARTED_AT = dt.datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)


@pytest.fixture(scope="session")
def new_postgresql() -> Iterator[Callable[[], str]]:
    """Makes PostgreSQL databases."""
    with servers.postgresql() as new_database:
        yield new_database


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis server."""
    with servers.redis() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A database without a schema, on each server."""
    url = request.getfixturevalue("new_postgresql")() if request.param == "postgresql" else None
    async with open_database(Settings(data_dir=tmp_path, database_url=url, _env_file=None)) as engine:
        yield engine


@pytest.fixture
async def engine(empty_engine: AsyncEngine) -> AsyncEngine:
    """A migrated database, on each server."""
    await migrate(empty_engine)
    return empty_engine


@pytest.fixture
def accounts(engine: AsyncEngine) -> AccountStore:
    """The accounts, on each server."""
    return AccountStore(engine)


@pytest.fixture
def store(engine: AsyncEngine) -> SessionStore:
    """The sessions, on each server."""
    return SessionStore(engine)


@pytest.fixture
async def caller(accounts: AccountStore) -> Caller:
    """An account."""
    return await new_caller(accounts, "first")


@pytest.fixture(params=["embedded", "server"])
async def redis(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Redis]:
    """Redis, of each kind."""
    url = SecretStr(request.getfixturevalue("redis_url")) if request.param == "server" else None
    async with open_redis(Settings(data_dir=tmp_path, redis_url=url, _env_file=None)) as client:
        yield client


@pytest.fixture
def leases(redis: Redis) -> LeaseStore:
    """The leases of a deployment of its own, on Redis of each kind."""
    return LeaseStore(redis, deployment=random_text(12))


async def new_caller(accounts: AccountStore, name: str) -> Caller:
    """Make an account."""
    caller = await accounts.authenticate(await accounts.create_key(name))
    assert caller is not None
    return caller


def new_session(caller: Caller, *, age_minutes: float = 0) -> Session:
    """Return a session that began so long before the tests' own moment."""
    started_at = STARTED_AT - dt.timedelta(minutes=age_minutes)
    return Session(
        id=new_session_id(),
        account_id=caller.account_id,
        account=caller.account,
        sandbox_id=new_sandbox_id(),
        kernel_key=random_text(64),
        started_at=started_at,
        last_execute_at=started_at,
        expires_at=started_at + dt.timedelta(hours=1),
        execute_count=0,
        key_id=caller.key_id,
    )
