"""The node's records as frozen values: what the database keeps and the roles pass on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from study.commitment import Standing
from study.errors import Reason
from study.headers import InstanceHeader
from study.inquiry import Inquiry
from study.rejections import ImageRejection, RejectionNote
from study.searches import PriorSearch
from study.states import DeliveryState, JobState, StudyState, VerdictOutcome


@dataclass(frozen=True)
class StoredInstance:
    """One version of a SOP Instance whose bytes are durable.

    Parameters
    ----------
    digest
        SHA-256 of the encoded data set without file meta, hexadecimal; with the SOP Instance UID it is the key.
    path
        Where the file belongs, relative to the store.
    inbox_path
        Where the file is until it is moved, relative to the store; both places are valid.
    size
        Of the file [bytes].
    calling_ae_title
        Who sent it.
    received_at
        When its bytes were durable, UTC.
    fetched
        Whether it came because we asked for it (C-GET, or C-MOVE to ourselves): nobody sent it for analysis.
    rejection
        What a Key Object rejects that arrives; None of all else, and of what the index gives back.
    """

    header: InstanceHeader
    digest: str
    path: str
    inbox_path: str
    size: int
    calling_ae_title: str
    received_at: datetime
    fetched: bool = False
    rejection: RejectionNote | None = None


@dataclass(frozen=True)
class Verdict:
    """What one model says of one series, or of one stack of it, when it is asked.

    Parameters
    ----------
    stack
        What tells the stack from the others of its series, in words; "" where the series is one.
    reasons
        Every rule that speaks against it; empty where it is accepted.
    """

    model_name: str
    series_instance_uid: str
    series_number: int | None
    series_description: str
    stack: str
    outcome: VerdictOutcome
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class PlannedPrior:
    """An earlier series that a job reads beside its own.

    Parameters
    ----------
    instances
        (SOP Instance UID, digest) of each, in the order of the slices.
    """

    study_instance_uid: str
    study_date: str
    series_instance_uid: str
    instances: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PlannedJob:
    """One model's work on a revision, decided when a study is complete and not yet in the database.

    Parameters
    ----------
    instances_digest
        SHA-256 over the sorted (SOP Instance UID, digest) of the accepted series: the set the job belongs to.
    parameters
        Every setting that changes what the model or the writer makes of the same images.
    parameters_digest
        SHA-256 of `parameters`.
    refusal
        Why the model can not run; None where it can.
    priority
        What it goes before: each level is a head start (`study.urgency`).
    priors
        Earlier series that the results are compared with, the latest study's first.
    """

    model_name: str
    model_digest: str
    series_instance_uid: str
    instances_digest: str
    parameters: dict[str, Any]
    parameters_digest: str
    sop_instance_uids: tuple[str, ...]
    deadline_seconds: float
    refusal: Reason | None = None
    priority: int = 0
    priors: tuple[PlannedPrior, ...] = ()


@dataclass(frozen=True)
class Job:
    """One model's work on one revision of a study.

    Parameters
    ----------
    attempt
        Counts every lease; every write of a worker is conditional on it (the fencing token).
    crashes
        Attempts that a living keeper saw fail; three are the limit.
    interruptions
        Attempts that ended from outside (the node was stopped or killed).
    not_before
        Earliest next lease, UTC.
    priority
        What it goes before: each level is a head start (`study.urgency`).
    details
        How it went: see docs/json.md.
    """

    id: int
    study_instance_uid: str
    revision: int
    model_name: str
    model_digest: str
    series_instance_uid: str
    instances_digest: str
    parameters: dict[str, Any]
    parameters_digest: str
    deadline_seconds: float
    state: JobState
    current: bool
    attempt: int
    crashes: int
    interruptions: int
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    not_before: datetime | None = None
    reason: Reason | None = None
    details: dict[str, Any] = field(default_factory=dict)
    priority: int = 0


@dataclass(frozen=True)
class ResultObject:
    """One encoded result object on disk.

    Parameters
    ----------
    form
        The word of the configuration: "seg", "sr".
    variant
        The key of the variant of the form (`study.forms.Variant.key`).
    path
        Relative to the store.
    digest
        SHA-256 of the file, hexadecimal.
    """

    form: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: str
    digest: str
    size: int
    variant: str = ""


@dataclass(frozen=True)
class Predecessor:
    """A report of an earlier analysis of the same study by the same model, that a newer one takes the place of.

    Parameters
    ----------
    variant
        The key of the variant of its form (`study.forms.Variant.key`).
    """

    variant: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True)
class Delivery:
    """One result object on its way to one peer.

    Parameters
    ----------
    position
        Order within the study and peer: a lower one goes first (SEG before SR).
    problem
        Whether the last refusal looks as if a person must act.
    status
        The last C-STORE response status; None before the first.
    next_attempt_at
        Of what is stored and not committed: when the peer is asked (again) to commit itself.
    stored_at
        When the peer answered last that it stored it, where it has to commit itself.
    commitment
        How far it has come with that; None where it was not asked yet, or where nobody looked.
    """

    id: int
    job_id: int
    study_instance_uid: str
    peer: str
    position: int
    result: ResultObject
    state: DeliveryState
    attempts: int
    problem: bool
    next_attempt_at: datetime
    delivered_at: datetime | None = None
    status: int | None = None
    reason: Reason | None = None
    stored_at: datetime | None = None
    commitment: Standing | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened to a study, with its time (UTC)."""

    at: datetime
    kind: str
    words: str
    numbers: dict[str, Any] = field(default_factory=dict)
    job_id: int | None = None


@dataclass(frozen=True)
class Withdrawal:
    """A person took results of a job back: when (UTC), by which account of the machine, and why.

    Parameters
    ----------
    safety
        Whether a patient may come to harm by them.
    objects
        How many result objects.
    """

    job_id: int
    at: datetime
    account: str
    words: str
    safety: bool
    objects: int


@dataclass(frozen=True)
class Removal:
    """Retention removed a study's images and results: when last (UTC), and of how many images.

    Parameters
    ----------
    missing
        How many of them are not here (again).
    """

    at: datetime
    instances: int
    missing: int


@dataclass(frozen=True)
class StudySummary:
    """A study as a list shows it."""

    study_instance_uid: str
    state: StudyState
    patient_id: str
    accession_number: str
    study_description: str
    series: int
    instances: int
    first_received_at: datetime
    last_received_at: datetime
    reason: Reason | None = None
    discarded_at: datetime | None = None  # when a person let go of what failed in it
    removal: Removal | None = None  # what retention did with it


@dataclass(frozen=True)
class StudyRecord:
    """Everything the node knows of a study."""

    summary: StudySummary
    revision: int
    series: tuple[dict[str, Any], ...]
    jobs: tuple[Job, ...]
    deliveries: tuple[Delivery, ...]
    results: tuple[tuple[int, ResultObject], ...]  # (job id, object)
    events: tuple[Event, ...]
    verdicts: tuple[Verdict, ...] = ()  # of the newest look at the study
    other_versions: tuple[StoredInstance, ...] = ()  # replaced by newer bytes under the same UID, and kept
    # What became of each of these, by SOP Instance UID and digest: "replaced", "same" or "discounted"
    standings: Mapping[tuple[str, str], str] = field(default_factory=dict)
    withdrawals: tuple[Withdrawal, ...] = ()
    rejections: tuple[ImageRejection, ...] = ()  # by Key Objects that came in
    inquiry: Inquiry | None = None  # what an archive was asked of it; None where nobody was ever to be asked
    prior_searches: tuple[PriorSearch, ...] = ()  # for earlier studies of the patient, by model
