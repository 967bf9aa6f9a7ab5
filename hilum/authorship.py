"""Who makes a result and under which names: what every object of a job is told, whoever writes it. Loads no torch."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version

from hilum.moments import zone_at
from hilum.working.wire import Request
from inference.catalog import ModelCard
from sr_writer.context import ResultContext
from study.imaging import ModelIdentity
from study.uids import derive_uid

MANUFACTURER = "Hilum"


def model_identity(request: Request, card: ModelCard) -> ModelIdentity:
    """Return who makes the results: the model on this node; its Device UID changes when the model does."""
    return ModelIdentity(
        name=request.model_name,
        version=card.version,
        digest=request.model_digest,
        device_uid=derive_uid("device", request.device_uid, request.model_name, request.model_digest),
        manufacturer=MANUFACTURER,
        software_version=version("hilum"),
        serial=request.serial,
    )


def result_context(request: Request, card: ModelCard, time_zone: str) -> ResultContext:
    """Return what the results of a job must be told from outside.

    Parameters
    ----------
    time_zone
        The site's, by its IANA name; "": the machine's.
    """
    created_at = datetime.fromisoformat(request.created_at)
    disclaimer = request.parameters["disclaimer"]
    return ResultContext(
        instances_digest=request.instances_digest,
        parameters_digest=request.parameters_digest,
        created_at=created_at,
        time_zone=zone_at(time_zone, created_at),
        description=card.title,
        disclaimer=f" - {disclaimer}" if disclaimer else "",
        position=request.parameters["series_position"],
        algorithm_family=card.algorithm_family,
        allow_empty_patient_id=request.parameters["allow_empty_patient_id"],
        predecessors=request.predecessors,
    )
