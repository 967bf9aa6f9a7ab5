"""What the keeper says to the processes that write for it, runner and reporter, and they to it: JSON messages.

A runner is given orders, one at a time: to analyse (`Request`), or to load a model ahead of its first job (`Warm`). It
ends each with one `Answer`; `News` in between tell the keeper how far it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import TypeAdapter

from study.entities import Job, Predecessor, ResultObject
from study.errors import HilumError, Numbers, Reason
from study.forms import Variant
from study.headers import InstanceHeader
from study.states import JobState

if TYPE_CHECKING:
    from db.files.filestore import NodeIdentity

Outcome = Literal["done", "refused", "failed"]
Images = tuple[tuple[str, InstanceHeader], ...]
"""(absolute path, header) of each image of a series."""


@dataclass(frozen=True)
class Request:
    """A job as its writer needs it: files to read, a folder to write into, and what names the results.

    Parameters
    ----------
    instances
        (absolute path, header) of each image of the accepted series.
    folder
        Where result objects go, absolute; empty and the runner's alone.
    device_uid, serial
        Of the node.
    created_at
        The job's time, ISO 8601 with zone: every time that a result carries.
    variants
        What to write.
    reason, failed
        For a refusal report: why there is no result, and whether that was a failure.
    priors
        (absolute path, header) of each image of each earlier series, the latest series first.
    without_priors
        Why they are left out of this attempt, in words; "" where they are not.
    predecessors
        Reports of an earlier analysis, that those of this one take the place of.
    """

    job_id: int
    attempt: int
    model_name: str
    model_digest: str
    instances: Images
    instances_digest: str
    parameters: dict[str, Any]
    parameters_digest: str
    created_at: str
    folder: str
    device_uid: str
    serial: str
    variants: tuple[Variant, ...] = ()
    reason: Reason | None = None
    failed: bool = False
    priors: tuple[Images, ...] = ()
    without_priors: str = ""
    predecessors: tuple[Predecessor, ...] = ()

    @classmethod
    def of_job(
        cls,
        job: Job,
        instances: Iterable[tuple[str, InstanceHeader]],
        folder: Path,
        identity: NodeIdentity,
        variants: Iterable[Variant],
        priors: Iterable[Iterable[tuple[str, InstanceHeader]]] = (),
    ) -> Request:
        """Return what is asked of the writer of a job's results, or of its refusal where it ended with one."""
        return cls(
            job_id=job.id,
            attempt=job.attempt,
            model_name=job.model_name,
            model_digest=job.model_digest,
            instances=tuple(instances),
            instances_digest=job.instances_digest,
            parameters=job.parameters,
            parameters_digest=job.parameters_digest,
            created_at=job.created_at.isoformat(),
            folder=str(folder),
            device_uid=identity.device_uid,
            serial=identity.serial,
            variants=tuple(variants),
            reason=job.reason,
            failed=job.state is JobState.FAILED,
            priors=tuple(tuple(prior) for prior in priors),
        )

    @property
    def names(self) -> dict[str, Any]:
        """Return what every log entry about it says: its study, job and attempt."""
        studies = [header.study_instance_uid for _, header in self.instances[:1]]
        return {"study": "".join(studies), "job": self.job_id, "attempt": self.attempt}

    def to_bytes(self) -> bytes:
        """Return the message."""
        # asdict() would first copy what stands for the images here, value by value
        values = vars(self) | {
            "instances": _to_json(self.instances),
            "priors": [_to_json(prior) for prior in self.priors],
            "variants": [variant.to_json() for variant in self.variants],
            "reason": None if self.reason is None else asdict(self.reason),
            "predecessors": [asdict(each) for each in self.predecessors],
        }
        return json.dumps(values).encode()

    @classmethod
    def from_bytes(cls, message: bytes) -> Request:
        """Return what `to_bytes` wrote."""
        return cls._of_values(json.loads(message))

    @classmethod
    def _of_values(cls, values: dict[str, Any]) -> Request:
        values["instances"] = _from_json(values["instances"])
        values["priors"] = tuple(map(_from_json, values["priors"]))
        values["variants"] = tuple(Variant.from_json(variant) for variant in values["variants"])
        values["predecessors"] = tuple(Predecessor(**each) for each in values["predecessors"])
        values["reason"] = Reason(**values["reason"]) if values["reason"] else None
        return cls(**values)


def _to_json(images: Images) -> list[tuple[str, dict[str, Any]]]:
    return [(path, header.to_json()) for path, header in images]


def _from_json(images: Iterable[tuple[str, dict[str, Any]]]) -> Images:
    return tuple((path, InstanceHeader.from_json(header)) for path, header in images)


@dataclass(frozen=True)
class Warm:
    """The order to load a model, so that its first study does not wait for it; no job's."""

    model_name: str

    def to_bytes(self) -> bytes:
        """Return the message."""
        return json.dumps({"warm": self.model_name}).encode()


def order_of(message: bytes) -> Request | Warm:
    """Return the order that a runner was given."""
    values = json.loads(message)
    return Warm(values["warm"]) if "warm" in values else Request._of_values(values)


@dataclass(frozen=True)
class News:
    """How far a runner is with its order.

    Parameters
    ----------
    step
        What it begins: "load", "decode", "preprocess", "inference", "postprocess", "measure", "prior", "encode".
    on_cpu
        Whether it went over to the processor since the GPU's memory did not suffice; another deadline holds then.
    """

    step: str
    on_cpu: bool = False

    def to_bytes(self) -> bytes:
        """Return the message."""
        return json.dumps({"news": asdict(self)}).encode()


def report_of(message: bytes) -> Answer | News:
    """Return what a runner said."""
    values = json.loads(message)
    return News(**values["news"]) if "news" in values else Answer.from_bytes(message)


@dataclass(frozen=True)
class Answer:
    """What became of an order; `job_id` and `attempt` are 0 where it was to load a model.

    Parameters
    ----------
    details
        How it went, for the job's record; also where it ended with an error.
    """

    job_id: int
    attempt: int
    outcome: Outcome
    results: tuple[ResultObject, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    words: str = ""
    numbers: Numbers = field(default_factory=dict)
    transient: bool = False

    @classmethod
    def of_error(
        cls, request: Request, error: HilumError, outcome: Outcome = "failed", details: dict[str, Any] | None = None
    ) -> Answer:
        """Return the answer to a request that ended with an error."""
        reason = error.reason
        return cls(
            request.job_id,
            request.attempt,
            outcome,
            details=details or {},
            code=reason.code,
            words=reason.words,
            numbers=reason.numbers,
            transient=error.transient,
        )

    @classmethod
    def of_crash(cls, words: str, request: Request | None = None, details: dict[str, Any] | None = None) -> Answer:
        """Return the answer where nobody foresaw how it ended: a request is tried again, a load ahead is not."""
        return cls(
            request.job_id if request else 0,
            request.attempt if request else 0,
            "failed",
            details=details or {},
            code="UnexpectedError",
            words=words,
            transient=request is not None,
        )

    @property
    def reason(self) -> Reason:
        """Return why the job was refused or failed."""
        return Reason(self.code, self.words, self.numbers)

    def to_bytes(self) -> bytes:
        """Return the message."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, message: bytes) -> Answer:
        """Return what `to_bytes` wrote; ValueError for anything else, which code of others may have sent."""
        return _ANSWER.validate_json(message, strict=True)


_ANSWER: Final = TypeAdapter(Answer)


def endpoint(descriptor: int) -> Connection[bytes, bytes]:
    """Return the framed end of an inherited socket."""
    return Connection(descriptor)
