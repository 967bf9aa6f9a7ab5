"""Images that came again otherwise, and images that were rejected."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import SafeText, UTCDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what they need; versions that are here already were not compared."""
    op.add_column("instance", sa.Column("kinship", SafeText(), nullable=False, server_default=""))
    op.create_table(
        "image_rejection",
        sa.Column("study", _KEY, nullable=False),
        *(sa.Column(name, SafeText(), nullable=False) for name in ("sop_instance_uid", "key_object", "title")),
        sa.Column("at", UTCDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name="fk_image_rejection_study"),
        sa.PrimaryKeyConstraint("study", "sop_instance_uid", name="pk_image_rejection"),
    )
