"""What the keeper and its runner say to each other: one JSON message a job, one answer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

from study.entities import ResultObject
from study.errors import Numbers, Reason
from study.forms import Variant
from study.headers import InstanceHeader

Outcome = Literal["done", "refused", "failed"]


@dataclass(frozen=True)
class Request:
    """A job as the runner needs it: files to read, a folder to write into, and what names the results.

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
    """

    job_id: int
    attempt: int
    model_name: str
    model_digest: str
    instances: tuple[tuple[str, InstanceHeader], ...]
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

    def to_bytes(self) -> bytes:
        """Return the message."""
        values = asdict(self) | {
            "instances": [(path, header.to_json()) for path, header in self.instances],
            "variants": [variant.to_json() for variant in self.variants],
        }
        return json.dumps(values).encode()

    @classmethod
    def from_bytes(cls, message: bytes) -> Request:
        """Return what `to_bytes` wrote."""
        values = json.loads(message)
        values["instances"] = tuple((path, InstanceHeader.from_json(header)) for path, header in values["instances"])
        values["variants"] = tuple(Variant.from_json(variant) for variant in values["variants"])
        values["reason"] = Reason(**values["reason"]) if values["reason"] else None
        return cls(**values)


@dataclass(frozen=True)
class Answer:
    """What became of a request."""

    job_id: int
    attempt: int
    outcome: Outcome
    results: tuple[ResultObject, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    words: str = ""
    numbers: Numbers = field(default_factory=dict)
    transient: bool = False

    @property
    def reason(self) -> Reason:
        """Return why the job was refused or failed."""
        return Reason(self.code, self.words, self.numbers)

    def to_bytes(self) -> bytes:
        """Return the message."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, message: bytes) -> Answer:
        """Return what `to_bytes` wrote."""
        values = json.loads(message)
        values["results"] = tuple(ResultObject(**result) for result in values["results"])
        return cls(**values)


def endpoint(descriptor: int) -> Connection[bytes, bytes]:
    """Return the framed end of an inherited socket."""
    return Connection(descriptor)
