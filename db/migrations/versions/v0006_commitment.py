"""Storage commitment: transactions that outlive the process, in both roles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import SafeJSON, SafeText, UTCDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what is stored and not committed yet, and what others ask us to commit ourselves to."""
    op.add_column("delivery", sa.Column("stored_at", UTCDateTime(timezone=True), nullable=True))
    _add_transactions()
    op.create_table(
        "vouch",
        sa.Column("id", _KEY, nullable=False),
        *(sa.Column(name, SafeText(), nullable=False) for name in ("message", "peer", "transaction_uid")),
        *(
            sa.Column(name, UTCDateTime(timezone=True), nullable=False)
            for name in ("received_at", "entered_at", "next_attempt_at")
        ),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("wanted", SafeJSON(), nullable=False),
        sa.Column("report", SafeJSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_vouch"),
        sa.UniqueConstraint("message", name="uq_vouch_message"),
    )
    op.create_index("ix_vouch_peer_next_attempt_at", "vouch", ["peer", "next_attempt_at"])


def _add_transactions() -> None:
    op.create_table(
        "commitment",
        sa.Column("id", _KEY, nullable=False),
        *(sa.Column(name, SafeText(), nullable=False) for name in ("transaction_uid", "peer", "state")),
        sa.Column("requested_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("answered_at", UTCDateTime(timezone=True), nullable=True),
        sa.Column("reason", SafeJSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_commitment"),
        sa.UniqueConstraint("transaction_uid", name="uq_commitment_transaction_uid"),
    )
    op.create_table(
        "commitment_item",
        sa.Column("commitment", _KEY, nullable=False),
        sa.Column("delivery", _KEY, nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("committed", sa.Boolean(), nullable=True),
        sa.Column("failure", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["commitment"], ["commitment.id"], name="fk_commitment_item_commitment"),
        sa.ForeignKeyConstraint(["delivery"], ["delivery.id"], name="fk_commitment_item_delivery"),
        sa.PrimaryKeyConstraint("commitment", "delivery", name="pk_commitment_item"),
    )
    op.create_index("ix_commitment_item_delivery", "commitment_item", ["delivery"])
