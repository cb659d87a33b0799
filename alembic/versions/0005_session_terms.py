"""What a session was opened with: its caller's metadata, its memory and its processors."""

import sqlalchemy as sa

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; sessions of before have the operator's limits and no metadata."""
    op.add_column("sessions", sa.Column("metadata", sa.JSON(none_as_null=True)))
    op.add_column("sessions", sa.Column("memory_bytes", sa.BigInteger))
    op.add_column("sessions", sa.Column("cpus", sa.Float))


def downgrade() -> None:
    """Take them away."""
    with op.batch_alter_table("sessions") as table:
        for name in ("cpus", "memory_bytes", "metadata"):
            table.drop_column(name)
