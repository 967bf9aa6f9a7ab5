"""Studies of which a person let go of what failed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import UTCDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add when that was."""
    op.add_column("study", sa.Column("discarded_at", UTCDateTime(timezone=True), nullable=True))
