"""${message}."""

import sqlalchemy as sa
from alembic import op

from tci.storage.tables import Amount, UtcDateTime

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Move one revision forward."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Move one revision back."""
    ${downgrades if downgrades else "pass"}
