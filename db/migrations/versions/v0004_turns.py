"""Urgent jobs first: each job has its priority and its turn in the queue; jobs of before keep their order."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import UTCDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and the index that the queue is read by in place of the one that it was read by."""
    op.add_column("job", sa.Column("priority", sa.BigInteger(), nullable=False, server_default="0"))
    # The constant is for SQLite, which adds no column that may not be empty without one; no job keeps it.
    epoch = "1970-01-01 00:00:00.000000"
    op.add_column("job", sa.Column("turn_at", UTCDateTime(timezone=True), nullable=False, server_default=epoch))
    op.execute("UPDATE job SET turn_at = created_at")
    op.drop_index("ix_job_lease", "job")
    op.create_index("ix_job_turn", "job", ["state", "turn_at", "id", "model_name", "not_before"])
