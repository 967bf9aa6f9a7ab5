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
    patient_id: Mapped[str] = mapped_column(index=True)
    issuer_of_patient_id: Mapped[str]
    patient_name: Mapped[str]
    patient_birth_date: Mapped[str]
    patient_sex: Mapped[str]


_OF_RETENTION = (
    # What is here, oldest first, with how much it is: the rows of all that was ever here are many
    Index(
        "ix_study_kept",
        "last_received_at",
        "stored_bytes",
        sqlite_where=text("stored_bytes > 0"),
        postgresql_where=text("stored_bytes > 0"),
    ),
    Index("ix_study_files_left", "id", sqlite_where=text("files_left = 1"), postgresql_where=text("files_left")),
)


class StudyRow(Table):
    """A study, with what its newest instance says of it.

    `generation` counts the batches that changed its instances: who plans work on a study remembers it, and finds out
    at closing whether something came in between. `receiving` says that instances arrived which no revision has seen,
    `evaluation_due` that models must be matched again, for that or another cause. `verdicts` is what each model said of
    each series when they were matched last. `on_request` says that a person wants it analysed, whatever the rules on
    age and senders say; `passed_over` that it was let go of when a pause ended.
    `discarded_at` is when a person let go of what failed in it; `accepted_generation` is that in which a person wanted
    the newest versions of its images analysed, whatever is held against them.
    `stored_bytes` is what the files of all versions of its instances hold. `removed_at` is when retention removed them
    last, and `removed_instances` how many; `files_left` says that their files are still to be removed.
    """

    __tablename__ = "study"
    __table_args__ = (
        Index("ix_study_due", "evaluation_due", "last_received_at"),
        Index(None, "last_received_at"),
        *_OF_RETENTION,
    )

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
    on_request: Mapped[bool] = mapped_column(server_default=false())
    passed_over: Mapped[bool] = mapped_column(server_default=false())
    discarded_at: Mapped[datetime | None]
    accepted_generation: Mapped[Number | None]
    stored_bytes: Mapped[Number] = mapped_column(server_default="0")
    removed_at: Mapped[datetime | None]
    removed_instances: Mapped[Number] = mapped_column(server_default="0")
    files_left: Mapped[bool] = mapped_column(server_default=false())


class StudySenderRow(Table):
    """Who sent instances of a study, the same ones again included; what was fetched on our request has no sender."""

    __tablename__ = "study_sender"
    __table_args__ = (Index(None, "calling_ae_title"),)

    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id), primary_key=True)
    calling_ae_title: Mapped[str] = mapped_column(primary_key=True)


class InquiryRow(Table):
    """What the archive was asked of a study, and said last.

    `generation` is that of the study when it was asked; `version` grows with each answer that may change what is known
    to be complete, and `considered` is the version that the indexer has seen. `series` has what is known of each
    series, by `study.completion`.
    """

    __tablename__ = "inquiry"
    __table_args__ = (
        Index(None, "peer", "state", "next_ask_at"),
        # Those of which something new is known: the indexer asks for them in each turn
        Index(
            "ix_inquiry_news",
            "study",
            sqlite_where=text("version != considered"),
            postgresql_where=text("version != considered"),
        ),
    )

    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id), primary_key=True)
    peer: Mapped[str]
    state: Mapped[str]
    generation: Mapped[Number]
    version: Mapped[Number]
    considered: Mapped[Number]
    asked: Mapped[Number]
    failures: Mapped[Number]
    next_ask_at: Mapped[datetime]
    series: Mapped[list[dict[str, Any]]]
    reason: Mapped[dict[str, Any] | None]


class PriorSearchRow(Table):
    """What came of the search for earlier studies of a study's patient, for one model.

    `found` names each earlier study with its date and what became of it; `reason` is why there is none, or why it could
    not be searched. `begun_at` is when it was begun, or begun anew: an analysis waits from then on.
    """

    __tablename__ = "prior_search"
    __table_args__ = (UniqueConstraint("study", "model_name"), Index(None, "state", "next_attempt_at"))

    id: Mapped[Identity]
    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id))
    model_name: Mapped[str]
    state: Mapped[str]
    begun_at: Mapped[datetime]
    attempts: Mapped[Number]
    next_attempt_at: Mapped[datetime]
    found: Mapped[list[dict[str, Any]]]
    reason: Mapped[dict[str, Any] | None]


class SeriesRow(Table):
    """A series of a study; `removed_instances` is how many of it were here when retention removed them."""

    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("study", "series_instance_uid"),)

    id: Mapped[Identity]
    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id))
    series_instance_uid: Mapped[str]
    modality: Mapped[str]
    series_number: Mapped[Number | None]
    series_description: Mapped[str]
    removed_instances: Mapped[Number] = mapped_column(server_default="0")


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
    fetched: Mapped[bool] = mapped_column(server_default=false())
    vouched_at: Mapped[datetime | None]  # we committed ourselves to keep it: retention spares it
    shown: Mapped[dict[str, Any] | None]  # what it shows (`db.images.versions.Shown`); None where nobody had to look
    discounted: Mapped[bool] = mapped_column(server_default=false())  # a person said that it is wrong


class RejectionNoteRow(Table):
    """A Key Object that came in and rejects objects: its study, and its title, by the code value.

    The title is "" where it could not be read: then nothing is known of what it rejects.
    """

    __tablename__ = "rejection_note"
    __table_args__ = (Index(None, "study"),)

    id: Mapped[Identity]
    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id))
    sop_instance_uid: Mapped[str]
    title: Mapped[str]
    received_at: Mapped[datetime]


class RejectedImageRow(Table):
    """An object that a Key Object names, which need not be here (yet).

    `excluded` says that no model reads it; `lifted_at` is when a person wanted it analysed all the same.
    """

    __tablename__ = "rejected_image"
    __table_args__ = (Index(None, "study_instance_uid", "sop_instance_uid"),)

    note: Mapped[int] = mapped_column(ForeignKey(RejectionNoteRow.id), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(primary_key=True)
    excluded: Mapped[bool]
    lifted_at: Mapped[datetime | None]


class SetAsideRow(Table):
    """A received file that could not be indexed, and why."""

    __tablename__ = "set_aside"

    id: Mapped[Identity]
    at: Mapped[datetime]
    path: Mapped[str] = mapped_column(unique=True)
    reason: Mapped[dict[str, Any]]


class RevisionRow(Table):
    """One look at a complete study that led to new work; or to none, and then `not_selected` says why.

    `not_admitted` is why no model was asked, where none was.
    """

    __tablename__ = "revision"
    __table_args__ = (UniqueConstraint("study", "number"),)

    id: Mapped[Identity]
    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id))
    number: Mapped[Number]
    created_at: Mapped[datetime]
    not_selected: Mapped[str | None]
    not_admitted: Mapped[dict[str, Any] | None]


class JobRow(Table):
    """One model's work on one set of instances; the unique key makes the same work happen once.

    `attempt` is the fencing token: it grows with every lease, and a worker's writes are conditional on it. `turn_at` is
    the order of the queue: when the job was entered, less the head start of its priority; `not_before` only delays it.
    `inputs_removed` says that retention removed what it reads: it can not run (again) until it is planned anew.
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
    inputs_removed: Mapped[bool] = mapped_column(server_default=false())


class JobInstanceRow(Table):
    """Which version of which instance a job reads, in the order of its slices."""

    __tablename__ = "job_instance"

    job: Mapped[int] = mapped_column(ForeignKey(JobRow.id), primary_key=True)
    position: Mapped[int] = mapped_column(Integer(), primary_key=True)
    instance: Mapped[int] = mapped_column(ForeignKey(InstanceRow.id), index=True)


class JobPriorRow(Table):
    """Which version of which instance of an earlier series a job reads beside its own, in the order of its slices.

    `prior` counts the earlier series of the job, the latest of them 0.
    """

    __tablename__ = "job_prior"

    job: Mapped[int] = mapped_column(ForeignKey(JobRow.id), primary_key=True)
    prior: Mapped[int] = mapped_column(Integer(), primary_key=True)
    position: Mapped[int] = mapped_column(Integer(), primary_key=True)
    instance: Mapped[int] = mapped_column(ForeignKey(InstanceRow.id), index=True)


class ResultRow(Table):
    """One encoded result object of a finished job; `removed_at` is when retention removed its file."""

    __tablename__ = "result"
    __table_args__ = (
        UniqueConstraint("job", "sop_instance_uid"),
        Index(
            "ix_result_kept",
            "job",
            "size",
            "removed_at",  # else SQLite reads each row to see that it is kept
            sqlite_where=text("removed_at IS NULL"),
            postgresql_where=text("removed_at IS NULL"),
        ),
    )

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
    removed_at: Mapped[datetime | None]


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

    `doubted` marks what something on stand-by would take the place of, `unsure` what the peer may hold though it never
    said so: an attempt ended without an answer. While a sender holds it, `next_attempt_at` is
    the end of its lease: a held delivery and one in back-off wait alike. Once it is stored, it is when the peer is
    asked (again) to commit itself.
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
    unsure: Mapped[bool] = mapped_column(server_default=false())
    stored_at: Mapped[datetime | None]


class CommitmentRow(Table):
    """A transaction in which a peer was asked to commit itself to objects that it stored."""

    __tablename__ = "commitment"

    id: Mapped[Identity]
    transaction_uid: Mapped[str] = mapped_column(unique=True)
    peer: Mapped[str]
    state: Mapped[str]
    requested_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]
    reason: Mapped[dict[str, Any] | None]


class CommitmentItemRow(Table):
    """An object that a transaction is about.

    `attempt` is the delivery's when it was asked for: what is said of an earlier sending says nothing of a later one.
    `committed` is None until the peer has answered for it; `failure` is the reason that it gave.
    """

    __tablename__ = "commitment_item"

    commitment: Mapped[int] = mapped_column(ForeignKey(CommitmentRow.id), primary_key=True)
    delivery: Mapped[int] = mapped_column(ForeignKey(DeliveryRow.id), primary_key=True, index=True)
    attempt: Mapped[Number]
    committed: Mapped[bool | None]
    failure: Mapped[Number | None]


class VouchRow(Table):
    """A peer's request that we commit ourselves to objects, until the peer has taken our report.

    `message` names the request in the spool, so that it is taken over once. `wanted` are the objects, `report` is what
    we answer; None until that is judged.
    """

    __tablename__ = "vouch"
    __table_args__ = (Index(None, "peer", "next_attempt_at"),)

    id: Mapped[Identity]
    message: Mapped[str] = mapped_column(unique=True)
    peer: Mapped[str]
    transaction_uid: Mapped[str]
    received_at: Mapped[datetime]
    entered_at: Mapped[datetime]
    attempts: Mapped[Number]
    next_attempt_at: Mapped[datetime]
    wanted: Mapped[list[dict[str, Any]]]
    report: Mapped[dict[str, Any] | None]


class PauseRow(Table):
    """What the node leaves until a person lets it go on: analyses, or deliveries."""

    __tablename__ = "pause"

    kind: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime]
    words: Mapped[str]


class WithdrawalRow(Table):
    """A person took the results of a job back: who (by the account on this machine), when and why."""

    __tablename__ = "withdrawal"

    id: Mapped[Identity]
    study: Mapped[int] = mapped_column(ForeignKey(StudyRow.id), index=True)
    job: Mapped[int] = mapped_column(ForeignKey(JobRow.id), index=True)
    at: Mapped[datetime]
    account: Mapped[str]
    words: Mapped[str]
    safety: Mapped[bool]


class WithdrawnRow(Table):
    """A result object that was taken back: nothing sends it (again)."""

    __tablename__ = "withdrawn"

    result: Mapped[int] = mapped_column(ForeignKey(ResultRow.id), primary_key=True)
    withdrawal: Mapped[int] = mapped_column(ForeignKey(WithdrawalRow.id), index=True)


class RejectionRow(Table):
    """Which delivery, of a Key Object, rejects what a delivery brought to a peer, or may still bring there."""

    __tablename__ = "rejection"

    delivery: Mapped[int] = mapped_column(ForeignKey(DeliveryRow.id), primary_key=True)
    key_object: Mapped[int] = mapped_column(ForeignKey(DeliveryRow.id), index=True)


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
