"""The tables, typed. State lives on revision, job and delivery; the state of a study is derived from them.

Keys between tables are integers; DICOM's UIDs are unique columns beside them. Every index serves a query that a role
asks again and again, so that a backlog of studies slows none of them down.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, MetaData, UniqueConstraint, false, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.columns import SafeJSON, SafeText, UTCDateTime

# SQLite numbers rows by itself only in a column that is declared INTEGER.
Identity = Annotated[int, mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)]
Number = Annotated[int, mapped_column(BigInteger())]

_EPOCH = "1970-01-01 00:00:00.000000"  # SQLite adds no column that may not be empty without a constant for it
_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Table(DeclarativeBase):
    """Base of every table."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {  # noqa: RUF012 - read once by SQLAlchemy
        str: SafeText(),
        datetime: UTCDateTime(),
        dict[str, Any]: SafeJSON(),
        list[dict[str, Any]]: SafeJSON(),
        float: Float(),
    }


class PatientRow(Table):
    """A patient as headers name one; another spelling is another row, since nobody here may say that both are one."""

    __tablename__ = "patient"

    id: Mapped[Identity]
    identity_digest: Mapped[str] = mapped_column(unique=True)
    patient_id: Mapped[str]
    issuer_of_patient_id: Mapped[str]
    patient_name: Mapped[str]
    patient_birth_date: Mapped[str]
    patient_sex: Mapped[str]


class StudyRow(Table):
    """A study, with what its newest instance says of it.

    `generation` counts the batches that changed its instances: who plans work on a study remembers it, and finds out
    at closing whether something came in between. `receiving` says that instances arrived which no revision has seen,
    `evaluation_due` that models must be matched again, for that or another cause. `verdicts` is what each model said of
    each series when they were matched last.
    """

    __tablename__ = "study"
    __table_args__ = (Index("ix_study_due", "evaluation_due", "last_received_at"), Index(None, "last_received_at"))

    id: Mapped[Identity]
    study_instance_uid: Mapped[str] = mapped_column(unique=True)
    patient: Mapped[int] = mapped_column(ForeignKey(PatientRow.id), index=True)
    accession_number: Mapped[str] = mapped_column(index=True)
    study_description: Mapped[str]
    study_date: Mapped[str]
    first_received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    generation: Mapped[Number]
    receiving: Mapped[bool]
    evaluation_due: Mapped[bool]
    verdicts: Mapped[list[dict[str, Any]] | None]


class SeriesRow(Table):
    """A series of a study."""

    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("study", "series_instance_uid"),)

    id: Mapped[Identity]
    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id))
    series_instance_uid: Mapped[str]
    modality: Mapped[str]
    series_number: Mapped[Number | None]
    series_description: Mapped[str]


class InstanceRow(Table):
    """One version of a SOP Instance; at most one version is current within a study."""

    __tablename__ = "instance"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "digest"),
        Index(
            "uq_instance_current",
            "study",
            "sop_instance_uid",
            unique=True,
            sqlite_where=text("current = 1"),
            postgresql_where=text("current"),
        ),
        Index(None, "study", "current", "series"),
    )

    id: Mapped[Identity]
    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id))
    series: Mapped[int] = mapped_column(ForeignKey(SeriesRow.id), index=True)
    sop_instance_uid: Mapped[str]
    digest: Mapped[str]
    current: Mapped[bool]
    header: Mapped[dict[str, Any]]
    path: Mapped[str]
    inbox_path: Mapped[str]
    size: Mapped[Number]
    calling_ae_title: Mapped[str]
    received_at: Mapped[datetime]


class SetAsideRow(Table):
    """A received file that could not be indexed, and why."""

    __tablename__ = "set_aside"

    id: Mapped[Identity]
    at: Mapped[datetime]
    path: Mapped[str] = mapped_column(unique=True)
    reason: Mapped[dict[str, Any]]


class RevisionRow(Table):
    """One look at a complete study that led to new work; or to none, and then `not_selected` says why."""

    __tablename__ = "revision"
    __table_args__ = (UniqueConstraint("study", "number"),)

    id: Mapped[Identity]
    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id))
    number: Mapped[Number]
    created_at: Mapped[datetime]
    not_selected: Mapped[str | None]


class JobRow(Table):
    """One model's work on one set of instances; the unique key makes the same work happen once.

    `attempt` is the fencing token: it grows with every lease, and a worker's writes are conditional on it. `turn_at` is
    the order of the queue: when the job was entered, less the head start of its priority; `not_before` only delays it.
    """

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint(
            "study", "model_name", "model_digest", "parameters_digest", "instances_digest", name="uq_job_work"
        ),
        # The last two spare the look for a job that fits the rows of a whole backlog
        Index("ix_job_turn", "state", "turn_at", "id", "model_name", "not_before"),
        Index("ix_job_expiry", "state", "lease_until"),
        Index(None, "study", "current"),
    )

    id: Mapped[Identity]
    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id))
    revision: Mapped[int] = mapped_column(ForeignKey(RevisionRow.id), index=True)
    model_name: Mapped[str]
    model_digest: Mapped[str]
    series_instance_uid: Mapped[str]
    instances_digest: Mapped[str]
    parameters: Mapped[dict[str, Any]]
    parameters_digest: Mapped[str]
    deadline_seconds: Mapped[float]
    state: Mapped[str]
    current: Mapped[bool]
    attempt: Mapped[Number]
    crashes: Mapped[Number]
    interruptions: Mapped[Number]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    not_before: Mapped[datetime]
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    reason: Mapped[dict[str, Any] | None]
    details: Mapped[dict[str, Any]]
    priority: Mapped[Number] = mapped_column(server_default="0")
    turn_at: Mapped[datetime] = mapped_column(server_default=_EPOCH)


class JobInstanceRow(Table):
    """Which version of which instance a job reads, in the order of its slices."""

    __tablename__ = "job_instance"

    job: Mapped[int] = mapped_column(ForeignKey(JobRow.id), primary_key=True)
    position: Mapped[int] = mapped_column(Integer(), primary_key=True)
    instance: Mapped[int] = mapped_column(ForeignKey(InstanceRow.id), index=True)


class ResultRow(Table):
    """One encoded result object of a finished job."""

    __tablename__ = "result"
    __table_args__ = (UniqueConstraint("job", "sop_instance_uid"),)

    id: Mapped[Identity]
    job: Mapped[int] = mapped_column(ForeignKey(JobRow.id))
    form: Mapped[str]
    sop_class_uid: Mapped[str]
    sop_instance_uid: Mapped[str]
    series_instance_uid: Mapped[str]
    path: Mapped[str]
    digest: Mapped[str]
    size: Mapped[Number]
    variant: Mapped[str] = mapped_column(server_default="")


class NoticeRow(Table):
    """A refusal report that is owed: a job ended without results, and a destination wants to be told.

    The row is there until the report is written, and then the outbox has it; `reason` is why it could not be written.
    """

    __tablename__ = "notice"
    __table_args__ = (Index("ix_notice_lease", "not_before", "id"),)

    id: Mapped[Identity]
    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id))
    job: Mapped[int] = mapped_column(ForeignKey(JobRow.id), unique=True)
    attempts: Mapped[Number]
    not_before: Mapped[datetime]
    lease_owner: Mapped[str | None]
    given_up: Mapped[bool]
    reason: Mapped[dict[str, Any] | None]


class AcceptanceRow(Table):
    """What is known of a peer, at the address where it was asked, and a SOP Class."""

    __tablename__ = "acceptance"
    __table_args__ = (UniqueConstraint("peer", "address", "sop_class_uid"),)

    id: Mapped[Identity]
    peer: Mapped[str]
    address: Mapped[str]
    sop_class_uid: Mapped[str]
    state: Mapped[str]
    at: Mapped[datetime]


class DeliveryRow(Table):
    """One result object on its way to one peer: a row of the outbox.

    `doubted` marks what something on stand-by would take the place of. While a sender holds it, `next_attempt_at` is
    the end of its lease: a held delivery and one in back-off wait alike.
    """

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("result", "peer"),
        Index("ix_delivery_due", "peer", "state", "next_attempt_at", "id"),
        Index("ix_delivery_order", "study", "peer", "state", "position"),
        Index("ix_delivery_problem", "state", "problem"),
    )

    id: Mapped[Identity]
    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id))
    job: Mapped[int] = mapped_column(ForeignKey(JobRow.id), index=True)
    result: Mapped[int] = mapped_column(ForeignKey(ResultRow.id))
    peer: Mapped[str]
    position: Mapped[Number]
    state: Mapped[str]
    attempts: Mapped[Number]
    problem: Mapped[bool]
    next_attempt_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
    lease_owner: Mapped[str | None]
    status: Mapped[Number | None]
    reason: Mapped[dict[str, Any] | None]
    doubted: Mapped[bool] = mapped_column(server_default=false())


class EventRow(Table):
    """Something that happened to a study."""

    __tablename__ = "event"
    __table_args__ = (Index(None, "study", "id"),)

    id: Mapped[Identity]
    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id))
    at: Mapped[datetime]
    kind: Mapped[str]
    words: Mapped[str]
    numbers: Mapped[dict[str, Any]]
    job: Mapped[Number | None] = mapped_column(ForeignKey(JobRow.id), index=True)
