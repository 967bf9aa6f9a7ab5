"""Studies that are stored only, pauses, and results that a person took back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import SafeJSON, SafeText, UTCDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what they need; what lies in the outbox and was tried before is not known to be there or not."""
    op.add_column("revision", sa.Column("not_admitted", SafeJSON(), nullable=True))
    op.add_column("delivery", sa.Column("unsure", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("UPDATE delivery SET unsure = (state = 'PENDING' AND attempts > 0)")
    op.create_table(
        "pause",
        sa.Column("kind", SafeText(), nullable=False),
        sa.Column("since", UTCDateTime(timezone=True), nullable=False),
        sa.Column("words", SafeText(), nullable=False),
        sa.PrimaryKeyConstraint("kind", name="pk_pause"),
    )
    _add_withdrawals()


def _add_withdrawals() -> None:
    op.create_table(
        "withdrawal",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("study", _KEY, nullable=False),
        sa.Column("job", _KEY, nullable=False),
        sa.Column("at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("account", SafeText(), nullable=False),
        sa.Column("words", SafeText(), nullable=False),
        sa.Column("safety", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name="fk_withdrawal_study"),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name="fk_withdrawal_job"),
        sa.PrimaryKeyConstraint("id", name="pk_withdrawal"),
    )
    for column in ("study", "job"):
        op.create_index(f"ix_withdrawal_{column}", "withdrawal", [column])
    _add_pair("withdrawn", ("result", "result"), ("withdrawal", "withdrawal"))
    _add_pair("rejection", ("delivery", "delivery"), ("key_object", "delivery"))


def _add_pair(table: str, first: tuple[str, str], second: tuple[str, str]) -> None:
    """Make a table that says of rows of one table which row of another belongs to each."""
    op.create_table(
        table,
        *(sa.Column(column, _KEY, nullable=False) for column, _ in (first, second)),
        *(
            sa.ForeignKeyConstraint([column], [f"{other}.id"], name=f"fk_{table}_{column}")
            for column, other in (first, second)
        ),
        sa.PrimaryKeyConstraint(first[0], name=f"pk_{table}"),
    )
    op.create_index(f"ix_{table}_{second[0]}", table, [second[0]])
