"""First tables: accounts, keys, sessions, ledger."""

import datetime as dt

import sqlalchemy as sa

from alembic import op
from tci.ids import random_text
from tci.storage.tables import Amount, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    deployment = op.create_table(
        "deployment",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deployment"),
    )
    # Made here, where only one process can: replicas that start together must agree on it.
    op.bulk_insert(deployment, [{"id": random_text(12), "created_at": dt.datetime.now(dt.UTC)}])
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
        sa.UniqueConstraint("name", name="uq_accounts_name"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("prefix", sa.String(12), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("revoked_at", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_api_keys_account_id"),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    )
    op.create_index("ix_api_keys_account_id", "api_keys", ["account_id"])
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("sandbox_id", sa.String(40), nullable=False),
        sa.Column("kernel_key", sa.String(80), nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("last_execute_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.Column("execute_count", sa.Integer, nullable=False),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("end_reason", sa.String(40)),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_sessions_account_id"),
        sa.UniqueConstraint("sandbox_id", name="uq_sessions_sandbox_id"),
    )
    op.create_index("ix_sessions_account_id_ended_at_started_at", "sessions", ["account_id", "ended_at", "started_at"])
    op.create_index("ix_sessions_ended_at", "sessions", ["ended_at"])
    op.create_table(
        "ledger",
        sa.Column("session_id", sa.String(40), nullable=False),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("amount_usd", Amount, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_ledger"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_ledger_session_id"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_ledger_account_id"),
    )
    op.create_index("ix_ledger_account_id_created_at", "ledger", ["account_id", "created_at"])


def downgrade() -> None:
    """Drop every table."""
    for table in ("ledger", "sessions", "api_keys", "accounts", "deployment"):
        op.drop_table(table)
