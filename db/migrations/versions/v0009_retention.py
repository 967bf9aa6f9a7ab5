"""Studies whose images retention removed, and how much of each is here."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import UTCDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what was removed and when, and count what is here."""
    zero = sa.text("0")
    for table, column in (("study", "stored_bytes"), ("study", "removed_instances"), ("series", "removed_instances")):
        op.add_column(table, sa.Column(column, sa.BigInteger(), nullable=False, server_default=zero))
    for table in ("study", "result"):
        op.add_column(table, sa.Column("removed_at", UTCDateTime(timezone=True), nullable=True))
    for table, column in (("study", "files_left"), ("job", "inputs_removed")):
        op.add_column(table, sa.Column(column, sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(
        "UPDATE study SET stored_bytes = "
        "(SELECT coalesce(sum(instance.size), 0) FROM instance WHERE instance.study = study.id)"
    )
    _add_index("ix_study_kept", "study", ["last_received_at", "stored_bytes"], "stored_bytes > 0")
    _add_index("ix_study_files_left", "study", ["id"], "files_left = 1", "files_left")
    _add_index("ix_result_kept", "result", ["job", "size", "removed_at"], "removed_at IS NULL")


def _add_index(name: str, table: str, columns: list[str], where: str, where_of_postgresql: str = "") -> None:
    of_postgresql = sa.text(where_of_postgresql or where)
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=of_postgresql)
