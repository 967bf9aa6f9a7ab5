"""What each model said of each series is kept with the study; of studies closed before, nothing is known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import SafeJSON

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, empty for the studies that are there."""
    op.add_column("study", sa.Column("verdicts", SafeJSON(), nullable=True))
