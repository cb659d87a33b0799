"""The day of UTC of each bill, and indexes that answer what was used by day without reading the ledger."""

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_ledger_account_id_day_amount_usd_waived_at": ["account_id", "day", "amount_usd", "waived_at"],
    "ix_ledger_day_account_id_amount_usd_waived_at": ["day", "account_id", "amount_usd", "waived_at"],
}


def upgrade() -> None:
    """Add the day to every bill."""
    op.add_column("ledger", sa.Column("day", sa.Date))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("UPDATE ledger SET day = substr(created_at, 1, 10)")
    else:
        op.execute("UPDATE ledger SET day = (created_at AT TIME ZONE 'UTC')::date")
    with op.batch_alter_table("ledger") as table:
        table.alter_column("day", existing_type=sa.Date(), nullable=False)
    for name, columns in INDEXES.items():
        op.create_index(name, "ledger", columns)


def downgrade() -> None:
    """Take it away."""
    for name in INDEXES:
        op.drop_index(name, "ledger")
    with op.batch_alter_table("ledger") as table:
        table.drop_column("day")
