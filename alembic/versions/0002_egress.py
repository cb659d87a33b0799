"""What a key lets its sessions reach, and what a session may."""

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a policy to keys and sessions; sessions of before had no network."""
    op.add_column("api_keys", sa.Column("egress", sa.String(16)))
    op.add_column("sessions", sa.Column("egress", sa.String(16), nullable=False, server_default="none"))


def downgrade() -> None:
    """Take the columns away."""
    with op.batch_alter_table("sessions") as table:
        table.drop_column("egress")
    with op.batch_alter_table("api_keys") as table:
        table.drop_column("egress")
