"""What the manifest beside a study's files says of its results: all that no image could tell again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from db.outbox import Outgoing
from study.entities import Job, ResultObject


def results_record(job: Job, results: Sequence[ResultObject], deliveries: Sequence[Outgoing]) -> dict[str, Any]:
    """Return the record of a job's end: its key, what it made, and to whom that is owed."""
    return {
        "record": "results",
        "job": job.id,
        "attempt": job.attempt,
        "revision": job.revision,
        "model": job.model_name,
        "model_digest": job.model_digest,
        "series_instance_uid": job.series_instance_uid,
        "parameters": job.parameters,
        "parameters_digest": job.parameters_digest,
        "instances_digest": job.instances_digest,
        "created_at": job.created_at.isoformat(),
        "objects": [asdict(result) for result in results],
        "owed_to": [
            {
                "peer": each.peer,
                "sop_instance_uid": each.result.sop_instance_uid,
                "position": each.position,
                "stand_by": each.stand_by,
            }
            for each in deliveries
        ],
    }
