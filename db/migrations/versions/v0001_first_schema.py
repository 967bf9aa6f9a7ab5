"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.columns import SafeJSON, SafeText, UTCDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "patient",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("identity_digest", SafeText(), nullable=False),
        sa.Column("patient_id", SafeText(), nullable=False),
        sa.Column("issuer_of_patient_id", SafeText(), nullable=False),
        sa.Column("patient_name", SafeText(), nullable=False),
        sa.Column("patient_birth_date", SafeText(), nullable=False),
        sa.Column("patient_sex", SafeText(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patient")),
        sa.UniqueConstraint("identity_digest", name=op.f("uq_patient_identity_digest")),
    )
    op.create_table(
        "set_aside",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("path", SafeText(), nullable=False),
        sa.Column("reason", SafeJSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_set_aside")),
        sa.UniqueConstraint("path", name=op.f("uq_set_aside_path")),
    )
    op.create_table(
        "study",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study_instance_uid", SafeText(), nullable=False),
        sa.Column("patient", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("accession_number", SafeText(), nullable=False),
        sa.Column("study_description", SafeText(), nullable=False),
        sa.Column("study_date", SafeText(), nullable=False),
        sa.Column("first_received_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("last_received_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("receiving", sa.Boolean(), nullable=False),
        sa.Column("evaluation_due", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["patient"], ["patient.id"], name=op.f("fk_study_patient")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
        sa.UniqueConstraint("study_instance_uid", name=op.f("uq_study_study_instance_uid")),
    )
    with op.batch_alter_table("study", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_study_accession_number"), ["accession_number"], unique=False)
        batch_op.create_index("ix_study_due", ["evaluation_due", "last_received_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_study_last_received_at"), ["last_received_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_study_patient"), ["patient"], unique=False)

    op.create_table(
        "revision",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("not_selected", SafeText(), nullable=True),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name=op.f("fk_revision_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revision")),
        sa.UniqueConstraint("study", "number", name=op.f("uq_revision_study_number")),
    )
    op.create_table(
        "series",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("series_instance_uid", SafeText(), nullable=False),
        sa.Column("modality", SafeText(), nullable=False),
        sa.Column("series_number", sa.BigInteger(), nullable=True),
        sa.Column("series_description", SafeText(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name=op.f("fk_series_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint("study", "series_instance_uid", name=op.f("uq_series_study_series_instance_uid")),
    )
    op.create_table(
        "instance",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("series", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sop_instance_uid", SafeText(), nullable=False),
        sa.Column("digest", SafeText(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("header", SafeJSON(), nullable=False),
        sa.Column("path", SafeText(), nullable=False),
        sa.Column("inbox_path", SafeText(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("calling_ae_title", SafeText(), nullable=False),
        sa.Column("received_at", UTCDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["series"], ["series.id"], name=op.f("fk_instance_series")),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name=op.f("fk_instance_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint("sop_instance_uid", "digest", name=op.f("uq_instance_sop_instance_uid_digest")),
    )
    with op.batch_alter_table("instance", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_instance_series"), ["series"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_instance_study_current_series"), ["study", "current", "series"], unique=False
        )
        batch_op.create_index(
            "uq_instance_current",
            ["study", "sop_instance_uid"],
            unique=True,
            sqlite_where=sa.text("current = 1"),
            postgresql_where=sa.text("current"),
        )

    op.create_table(
        "job",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("revision", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("model_name", SafeText(), nullable=False),
        sa.Column("model_digest", SafeText(), nullable=False),
        sa.Column("series_instance_uid", SafeText(), nullable=False),
        sa.Column("instances_digest", SafeText(), nullable=False),
        sa.Column("parameters", SafeJSON(), nullable=False),
        sa.Column("parameters_digest", SafeText(), nullable=False),
        sa.Column("deadline_seconds", sa.Float(), nullable=False),
        sa.Column("state", SafeText(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("crashes", sa.BigInteger(), nullable=False),
        sa.Column("interruptions", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("started_at", UTCDateTime(timezone=True), nullable=True),
        sa.Column("ended_at", UTCDateTime(timezone=True), nullable=True),
        sa.Column("not_before", UTCDateTime(timezone=True), nullable=False),
        sa.Column("lease_owner", SafeText(), nullable=True),
        sa.Column("lease_until", UTCDateTime(timezone=True), nullable=True),
        sa.Column("reason", SafeJSON(), nullable=True),
        sa.Column("details", SafeJSON(), nullable=False),
        sa.ForeignKeyConstraint(["revision"], ["revision.id"], name=op.f("fk_job_revision")),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name=op.f("fk_job_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint(
            "study", "model_name", "model_digest", "parameters_digest", "instances_digest", name="uq_job_work"
        ),
    )
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.create_index("ix_job_expiry", ["state", "lease_until"], unique=False)
        batch_op.create_index("ix_job_lease", ["state", "not_before", "id"], unique=False)
        batch_op.create_index(batch_op.f("ix_job_revision"), ["revision"], unique=False)
        batch_op.create_index(batch_op.f("ix_job_study_current"), ["study", "current"], unique=False)

    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("kind", SafeText(), nullable=False),
        sa.Column("words", SafeText(), nullable=False),
        sa.Column("numbers", SafeJSON(), nullable=False),
        sa.Column("job", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("fk_event_job")),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name=op.f("fk_event_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_event_job"), ["job"], unique=False)
        batch_op.create_index(batch_op.f("ix_event_study_id"), ["study", "id"], unique=False)

    op.create_table(
        "job_instance",
        sa.Column("job", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("instance", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["instance"], ["instance.id"], name=op.f("fk_job_instance_instance")),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("fk_job_instance_job")),
        sa.PrimaryKeyConstraint("job", "position", name=op.f("pk_job_instance")),
    )
    with op.batch_alter_table("job_instance", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_job_instance_instance"), ["instance"], unique=False)

    op.create_table(
        "result",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("form", SafeText(), nullable=False),
        sa.Column("sop_class_uid", SafeText(), nullable=False),
        sa.Column("sop_instance_uid", SafeText(), nullable=False),
        sa.Column("series_instance_uid", SafeText(), nullable=False),
        sa.Column("path", SafeText(), nullable=False),
        sa.Column("digest", SafeText(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("fk_result_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_result")),
        sa.UniqueConstraint("job", "sop_instance_uid", name=op.f("uq_result_job_sop_instance_uid")),
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("result", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("peer", SafeText(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("state", SafeText(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Boolean(), nullable=False),
        sa.Column("next_attempt_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", UTCDateTime(timezone=True), nullable=True),
        sa.Column("lease_owner", SafeText(), nullable=True),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("reason", SafeJSON(), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("fk_delivery_job")),
        sa.ForeignKeyConstraint(["result"], ["result.id"], name=op.f("fk_delivery_result")),
        sa.ForeignKeyConstraint(["study"], ["study.id"], name=op.f("fk_delivery_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("result", "peer", name=op.f("uq_delivery_result_peer")),
    )
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.create_index("ix_delivery_due", ["peer", "state", "next_attempt_at", "id"], unique=False)
        batch_op.create_index(batch_op.f("ix_delivery_job"), ["job"], unique=False)
        batch_op.create_index("ix_delivery_order", ["study", "peer", "state", "position"], unique=False)
        batch_op.create_index("ix_delivery_problem", ["state", "problem"], unique=False)
