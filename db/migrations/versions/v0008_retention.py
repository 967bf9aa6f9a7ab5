"""Studies whose files are removed, and what a person let go of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import UTCDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what they need; the size of a study is that of the files of its instances."""
    op.add_column("study", sa.Column("size", sa.BigInteger(), nullable=False, server_default="0"))
    for column in ("discarded_at", "removed_at"):
        op.add_column("study", sa.Column(column, UTCDateTime(timezone=True), nullable=True))
    op.add_column("study", sa.Column("removed_instances", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute(
        "UPDATE study SET size = COALESCE((SELECT SUM(instance.size) FROM instance WHERE instance.study = study.id), 0)"
    )
