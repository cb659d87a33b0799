"""The tables. Rows never leave this package; `alembic/versions` holds the same, and a test compares the two."""

import datetime as dt
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    TypeDecorator,
    false,
)
from sqlalchemy.types import TypeEngine
from typing_extensions import override


class UtcDateTime(TypeDecorator[dt.datetime]):
    """An aware UTC moment with microseconds; SQLite, which has no time zones, keeps it naive."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @override
    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is not None and dialect.name == "sqlite":
            return value.astimezone(dt.UTC).replace(tzinfo=None)
        return value

    @override
    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None or value.tzinfo is dt.UTC:
            return value
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class Amount(TypeDecorator[Decimal]):
    """An exact amount of money, in US dollars; text in SQLite, whose numbers are binary floats."""

    impl = Numeric(14, 6)
    cache_ok = True

    @override
    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(24))
        return dialect.type_descriptor(Numeric(14, 6))

    @override
    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Decimal | str | None:
        return str(value) if value is not None and dialect.name == "sqlite" else value

    @override
    def process_result_value(self, value: Decimal | str | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

deployment = Table(
    "deployment",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
)
"""One row: the name that this installation writes on its sandboxes, so that it never takes a neighbour's."""

accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("prefix", String(12), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("egress", String(16)),
    Column("is_admin", Boolean, nullable=False, server_default=false()),
    Column("max_sessions", Integer),
    Column("max_sessions_per_day", Integer),
    Column("max_spend_per_month_usd", Amount),
    Column("max_executions_per_minute", Integer),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("sandbox_id", String(40), nullable=False, unique=True),
    Column("kernel_key", String(80), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("last_execute_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("execute_count", Integer, nullable=False),
    Column("egress", String(16), nullable=False, server_default="none"),
    Column("ended_at", UtcDateTime),
    Column("end_reason", String(40)),
    Column("key_id", ForeignKey("api_keys.id")),
    Column("answered_at", UtcDateTime),
    Column("metadata", JSON(none_as_null=True)),
    Column("memory_bytes", BigInteger),
    Column("cpus", Float),
    Index("ix_sessions_account_id_ended_at_started_at", "account_id", "ended_at", "started_at"),
    Index("ix_sessions_ended_at", "ended_at"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("session_id", ForeignKey("sessions.id"), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("amount_usd", Amount, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("key_id", ForeignKey("api_keys.id")),
    Column("waived_at", UtcDateTime),
    Column("day", Date, nullable=False),
    Index("ix_ledger_account_id_created_at", "account_id", "created_at"),
    Index("ix_ledger_created_at", "created_at"),
    # These two hold all that usage by day asks for, in its order; hence a column for the day, which is created_at's.
    Index("ix_ledger_account_id_day_amount_usd_waived_at", "account_id", "day", "amount_usd", "waived_at"),
    Index("ix_ledger_day_account_id_amount_usd_waived_at", "day", "account_id", "amount_usd", "waived_at"),
)
"""One row per session; the primary key makes billing twice impossible. A waived one costs nothing: we failed it."""
