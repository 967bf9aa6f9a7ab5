"""Complete by proof, and earlier studies: who sent a study, what archives said of it, what was fetched."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import SafeJSON, SafeText, UTCDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add tables and columns; who sent the instances that are there already is known from them."""
    op.add_column("study", sa.Column("on_request", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("study", sa.Column("passed_over", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("instance", sa.Column("fetched", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("instance", sa.Column("vouched_at", UTCDateTime(timezone=True), nullable=True))
    _add_senders()
    _add_inquiries()
    _add_priors()


def _add_senders() -> None:
    op.create_table(
        "study_sender",
        sa.Column("study", _KEY, nullable=False),
        sa.Column("calling_ae_title", SafeText(), nullable=False),
        *_keys("study_sender", ("study", "calling_ae_title"), study="study"),
    )
    op.create_index("ix_study_sender_calling_ae_title", "study_sender", ["calling_ae_title"])
    op.execute(
        "INSERT INTO study_sender (study, calling_ae_title) SELECT DISTINCT study, calling_ae_title FROM instance"
    )


def _add_inquiries() -> None:
    op.create_table(
        "inquiry",
        sa.Column("study", _KEY, nullable=False),
        sa.Column("peer", SafeText(), nullable=False),
        sa.Column("state", SafeText(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("generation", "version", "considered", "asked", "failures")
        ),
        sa.Column("next_ask_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("series", SafeJSON(), nullable=False),
        sa.Column("reason", SafeJSON(), nullable=True),
        *_keys("inquiry", ("study",), study="study"),
    )
    op.create_index("ix_inquiry_peer_state_next_ask_at", "inquiry", ["peer", "state", "next_ask_at"])
    news = sa.text("version != considered")
    op.create_index("ix_inquiry_news", "inquiry", ["study"], sqlite_where=news, postgresql_where=news)


def _add_priors() -> None:
    op.create_index("ix_patient_patient_id", "patient", ["patient_id"])
    op.create_table(
        "prior_search",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("study", _KEY, nullable=False),
        sa.Column("model_name", SafeText(), nullable=False),
        sa.Column("state", SafeText(), nullable=False),
        sa.Column("begun_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("next_attempt_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("found", SafeJSON(), nullable=False),
        sa.Column("reason", SafeJSON(), nullable=True),
        *_keys("prior_search", ("id",), study="study"),
        sa.UniqueConstraint("study", "model_name", name="uq_prior_search_study_model_name"),
    )
    op.create_index("ix_prior_search_state_next_attempt_at", "prior_search", ["state", "next_attempt_at"])
    op.create_table(
        "job_prior",
        sa.Column("job", _KEY, nullable=False),
        sa.Column("prior", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("instance", _KEY, nullable=False),
        *_keys("job_prior", ("job", "prior", "position"), job="job", instance="instance"),
    )
    op.create_index("ix_job_prior_instance", "job_prior", ["instance"])


def _keys(table: str, primary: tuple[str, ...], **foreign: str) -> list[sa.Constraint]:
    """Return the primary key of a table and what its columns refer to, under the names that the models give them."""
    references = [
        sa.ForeignKeyConstraint([column], [f"{other}.id"], name=f"fk_{table}_{column}")
        for column, other in foreign.items()
    ]
    return [*references, sa.PrimaryKeyConstraint(*primary, name=f"pk_{table}")]
