"""Images that were rejected, what two versions of an image show, and versions that a person put out of count."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import SafeJSON, SafeText, UTCDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add tables of what Key Objects rejected, and columns of what is known of the versions of an image."""
    _add_rejections()
    op.add_column("instance", sa.Column("shown", SafeJSON(), nullable=True))
    op.add_column("instance", sa.Column("discounted", sa.Boolean(), nullable=False, server_default=sa.false()))


def _add_rejections() -> None:
    op.create_table(
        "rejection_note",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("study", _KEY, nullable=False),
        sa.Column("sop_instance_uid", SafeText(), nullable=False),
        sa.Column("title", SafeText(), nullable=False),
        sa.Column("received_at", UTCDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rejection_note"),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name="fk_rejection_note_study"),
    )
    op.create_index("ix_rejection_note_study", "rejection_note", ["study"])
    op.create_table(
        "rejected_image",
        sa.Column("note", _KEY, nullable=False),
        sa.Column("study_instance_uid", SafeText(), nullable=False),
        sa.Column("sop_instance_uid", SafeText(), nullable=False),
        sa.Column("excluded", sa.Boolean(), nullable=False),
        sa.Column("lifted_at", UTCDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("note", "study_instance_uid", "sop_instance_uid", name="pk_rejected_image"),
        sa.ForeignKeyConstraint(["note"], ["rejection_note.id"], name="fk_rejected_image_note"),
    )
    op.create_index(
        "ix_rejected_image_study_instance_uid_sop_instance_uid",
        "rejected_image",
        ["study_instance_uid", "sop_instance_uid"],
    )
