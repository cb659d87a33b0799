"""Opens the SQL database, migrates it, and refuses a schema that is not current."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from alembic import command
from tci import resources
from tci.errors import SetupError
from tci.paths import make_private
from tci.settings import Settings


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
    arguments = {"server_settings": {"application_name": "tci"}, "timeout": 10, "command_timeout": 60}
    return create_async_engine(settings.sql_url, pool_pre_ping=True, connect_args=arguments)


def _prepare_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    # Readers and the writer don't block one another in WAL; FULL would cost an fsync per execution.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


async def migrate(engine: AsyncEngine) -> None:
    """Bring the schema to the newest revision; does nothing if it is there."""
    async with engine.begin() as db:
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
