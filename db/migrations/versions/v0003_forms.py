"""Forms by destination: variants of results, what peers accept, stand-by deliveries, and refusal reports owed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import SafeJSON, SafeText, UTCDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and tables; results of before have no variant, and nobody is told of refusals of before."""
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("result", sa.Column("variant", SafeText(), nullable=False, server_default=""))
    op.add_column("delivery", sa.Column("doubted", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "notice",
        sa.Column("id", key, nullable=False),
        sa.Column("study", key, nullable=False),
        sa.Column("job", key, nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("not_before", UTCDateTime(timezone=True), nullable=False),
        sa.Column("lease_owner", SafeText(), nullable=True),
        sa.Column("given_up", sa.Boolean(), nullable=False),
        sa.Column("reason", SafeJSON(), nullable=True),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name="fk_notice_study"),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name="fk_notice_job"),
        sa.PrimaryKeyConstraint("id", name="pk_notice"),
        sa.UniqueConstraint("job", name="uq_notice_job"),
    )
    op.create_index("ix_notice_lease", "notice", ["not_before", "id"])
    op.create_table(
        "acceptance",
        sa.Column("id", key, nullable=False),
        sa.Column("peer", SafeText(), nullable=False),
        sa.Column("address", SafeText(), nullable=False),
        sa.Column("sop_class_uid", SafeText(), nullable=False),
        sa.Column("state", SafeText(), nullable=False),
        sa.Column("at", UTCDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_acceptance"),
        sa.UniqueConstraint("peer", "address", "sop_class_uid", name="uq_acceptance_peer_address_sop_class_uid"),
    )
