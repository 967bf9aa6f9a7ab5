"""Studies of which a person let go of what failed, and images of which a person said that the newest count."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import UTCDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add when that was, and of which state of a study a person wanted the newest images analysed."""
    op.add_column("study", sa.Column("discarded_at", UTCDateTime(timezone=True), nullable=True))
    op.add_column("study", sa.Column("accepted_generation", sa.BigInteger(), nullable=True))
