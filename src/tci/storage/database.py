"""Opens the SQL database, migrates it, and refuses a schema that is not current."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from alembic import command
from tci import resources
from tci.errors import SetupError, Unavailable
from tci.paths import make_private
from tci.settings import Settings

STATEMENT_SECONDS = 10
"""Longest statement. The service's own take milliseconds; a migration sets this aside."""

CONNECT_SECONDS = 5
"""How long a connection may take, and how long a request waits for a free one."""

MIGRATION_LOCK = 7_384_211
"""Name of PostgreSQL's advisory lock: replicas that start together migrate one after the other."""


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """Open the database for as long as the block lasts; raises SetupError where it can't be reached."""
    try:
        engine = create_engine(settings)
    except (ArgumentError, ModuleNotFoundError, ValueError) as error:
        raise SetupError(f"TCI_DATABASE_URL can't be used: {error}") from error
    try:
        async with engine.connect():
            pass
    except (SQLAlchemyError, OSError) as error:
        await engine.dispose()
        where = engine.url.render_as_string(hide_password=True)
        message = f"The database {where} does not answer ({error}). Check TCI_DATABASE_URL."
        raise SetupError(message) from error
    try:
        yield engine
    finally:
        await engine.dispose()


def create_engine(settings: Settings) -> AsyncEngine:
    """Return the engine of the configured database."""
    if settings.sql_url.startswith("sqlite"):
        make_private(settings.data_dir)
        engine = create_async_engine(settings.sql_url, connect_args={"timeout": 30})
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        return engine
    arguments = {
        "server_settings": {
            "application_name": "tci",
            "statement_timeout": str(STATEMENT_SECONDS * 1000),
            "idle_in_transaction_session_timeout": str(2 * STATEMENT_SECONDS * 1000),
        },
        "timeout": CONNECT_SECONDS,
        # A server that is stopped, not closed, answers nothing at all: then we must give up by ourselves.
        "command_timeout": STATEMENT_SECONDS + 5,
    }
    # asyncpg's dead connections complain through the pool's own log; whoever met one has been told by its error.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    engine = create_async_engine(
        settings.sql_url,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=CONNECT_SECONDS,
        connect_args=arguments,
    )
    event.listen(engine.sync_engine, "checkout", _require_open)
    return engine


def _require_open(connection: DBAPIConnection, _record: ConnectionPoolEntry, _proxy: object) -> None:
    """Have the pool make a new connection in the place of one that its server has closed.

    asyncpg has seen that already; SQLAlchemy's own way, a ping each time, costs as much as a statement.
    """
    if getattr(connection.driver_connection, "is_closed", bool)():
        raise DisconnectionError


def _prepare_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    # Readers and the writer don't block one another in WAL; FULL would cost an fsync per execution.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Give a connection for a look; raises Unavailable where the database does not answer."""
    with _translated():
        async with engine.connect() as db:
            yield db


def committing(engine: AsyncEngine) -> AsyncEngine:
    """Return the engine, its pool the same, with connections on which each statement is its own transaction."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


@asynccontextmanager
async def writing_once(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Give a connection of a `committing` engine for one statement: without the round trips of a transaction.

    Raises Unavailable as `writing` does.
    """
    with _translated():
        async with engine.connect() as db:
            yield db


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Give a connection in a transaction; raises Unavailable where the database does not answer.

    Then it may have been committed all the same: the answer to a commit can be lost.
    """
    with _translated():
        async with engine.begin() as db:
            yield db


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the errors of a database that has gone into ours; those of a wrong statement stay what they are."""
    try:
        yield
    # A server that starts, stops or can't be reached is told by asyncpg itself, or by the system.
    except (OSError, PoolTimeout, asyncpg.PostgresError) as error:
        raise Unavailable("The database") from error
    except DBAPIError as error:
        if not _is_outage(error):
            raise
        raise Unavailable("The database") from error


def _is_outage(error: DBAPIError) -> bool:
    """Whether a statement failed since its connection did, or took too long."""
    cause = getattr(error.orig, "__cause__", None)
    outages = (
        asyncpg.QueryCanceledError,
        asyncpg.OperatorInterventionError,
        asyncpg.PostgresConnectionError,
        asyncpg.TooManyConnectionsError,
        asyncpg.InternalClientError,
    )
    if isinstance(cause, ValueError):  # a value that no column can hold
        return False
    if getattr(error.orig, "sqlite_errorname", None) == "SQLITE_ERROR":  # a statement that does not fit the schema
        return False
    has_gone = isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated
    return has_gone or isinstance(cause, (OSError, *outages))


async def migrate(engine: AsyncEngine) -> None:
    """Bring the schema to the newest revision; does nothing if it is there."""
    async with engine.begin() as db:
        if engine.dialect.name == "postgresql":
            await db.execute(text("SET LOCAL statement_timeout = 0"))
            await db.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        await db.run_sync(lambda connection: command.upgrade(_alembic_config(connection), "head"))


async def require_current_schema(engine: AsyncEngine) -> None:
    """Raise SetupError unless the schema is at the newest revision."""
    async with engine.connect() as db:
        current = await db.run_sync(lambda connection: MigrationContext.configure(connection).get_current_revision())
    newest = ScriptDirectory(str(resources.migrations())).get_current_head()
    if current != newest:
        message = f"The database is at schema {current or 'none'}, this version needs {newest}. Run 'tci migrate'."
        raise SetupError(message)


def _alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.migrations()))
    config.attributes["connection"] = connection
    return config
