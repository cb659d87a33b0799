"""Quotas of keys, who sees every account, which key opened a session, and whether it was ever answered."""

import sqlalchemy as sa

from alembic import op
from tci.storage.tables import Amount, UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; sessions of before that executed anything were answered."""
    op.add_column("api_keys", sa.Column("is_admin", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("api_keys", sa.Column("max_sessions", sa.Integer))
    op.add_column("api_keys", sa.Column("max_sessions_per_day", sa.Integer))
    op.add_column("api_keys", sa.Column("max_spend_per_month_usd", Amount))
    op.add_column("api_keys", sa.Column("max_executions_per_minute", sa.Integer))
    with op.batch_alter_table("sessions") as table:
        table.add_column(sa.Column("key_id", sa.Integer))
        table.add_column(sa.Column("answered_at", UtcDateTime))
        table.create_foreign_key("fk_sessions_key_id", "api_keys", ["key_id"], ["id"])
    with op.batch_alter_table("ledger") as table:
        table.add_column(sa.Column("key_id", sa.Integer))
        table.add_column(sa.Column("waived_at", UtcDateTime))
        table.create_foreign_key("fk_ledger_key_id", "api_keys", ["key_id"], ["id"])
    op.create_index("ix_ledger_created_at", "ledger", ["created_at"])
    op.execute("UPDATE sessions SET answered_at = last_execute_at WHERE execute_count > 0")


def downgrade() -> None:
    """Take the columns away."""
    op.drop_index("ix_ledger_created_at", "ledger")
    with op.batch_alter_table("ledger") as table:
        table.drop_constraint("fk_ledger_key_id", type_="foreignkey")
        table.drop_column("waived_at")
        table.drop_column("key_id")
    with op.batch_alter_table("sessions") as table:
        table.drop_constraint("fk_sessions_key_id", type_="foreignkey")
        table.drop_column("answered_at")
        table.drop_column("key_id")
    with op.batch_alter_table("api_keys") as table:
        for name in ("max_executions_per_minute", "max_spend_per_month_usd", "max_sessions_per_day"):
            table.drop_column(name)
        table.drop_column("max_sessions")
        table.drop_column("is_admin")
