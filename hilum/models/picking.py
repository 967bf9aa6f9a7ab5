"""Which images of a study a model would analyse, as planning picks them: for whoever runs it outside of the node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from db.files.filestore import FileStore
from hilum.config import Settings
from hilum.models.studies import read_folder, study_of_node
from hilum.planning import Plan, ordered_slices, plan_study
from hilum.wording import place_words, reason_words
from inference.catalog import ModelCard
from study.entities import PlannedJob, StoredInstance
from study.errors import ArchiveError, NoEligibleSeries
from study.geometry import VolumeGeometry
from study.headers import InstanceHeader
from study.states import VerdictOutcome

Stored = Mapping[str, Sequence[StoredInstance]]
"""The instances of each series, by Series Instance UID."""

_Locate = Callable[[StoredInstance], Path]


@dataclass(frozen=True, eq=False)
class Picked:
    """What a model is given of a study.

    Parameters
    ----------
    words
        Which series that is.
    paths, headers
        Of each slice or image, in the order in which it is analysed.
    geometry
        The grid that the slices form; None for images that stand alone.
    notes
        What a reader of results would be told of the series.
    """

    words: str
    paths: tuple[Path, ...]
    headers: tuple[InstanceHeader, ...]
    geometry: VolumeGeometry | None
    notes: tuple[str, ...]


def pick(settings: Settings, card: ModelCard, text: str) -> Picked:
    """Return what a model would be given of a study.

    Parameters
    ----------
    text
        A folder with the DICOM files of one study, or what stands for a study of the node's database.

    Raises
    ------
    ArchiveError
        If there is no such study, or the folder holds several.
    NoEligibleSeries
        If the model would not run on it; the words say why.
    """
    series, locate = _of_folder(Path(text)) if Path(text).is_dir() else _of_node(settings, text)
    alone = settings.model_copy(update={"models": {card.name: settings.models[card.name]}})
    # Earlier studies are none of what is picked here
    plan = plan_study(alone, {card.name: replace(card, priors=None)}, series)
    job = _job(plan, card)
    held = {each.header.sop_instance_uid: each for each in series[job.series_instance_uid]}
    instances = [(str(locate(held[uid])), held[uid].header) for uid in job.sop_instance_uids]
    ordered, geometry = ordered_slices(instances, job.parameters)
    chosen = next(verdict for verdict in plan.verdicts if verdict.outcome is VerdictOutcome.CHOSEN)
    return Picked(
        words=place_words(chosen),
        paths=tuple(Path(path) for path, _ in ordered),
        headers=tuple(header for _, header in ordered),
        geometry=geometry,
        notes=tuple(job.parameters["notes"]),
    )


def _job(plan: Plan, card: ModelCard) -> PlannedJob:
    if not plan.jobs:
        raise NoEligibleSeries(f"{card.name} would not run on this study: {plan.words}")
    (job,) = plan.jobs
    if job.refusal:
        raise NoEligibleSeries(f"{card.name} would not run on this study: {reason_words(job.refusal)}")
    return job


def _of_folder(folder: Path) -> tuple[Stored, _Locate]:
    found = read_folder(folder)
    if len(found.studies) != 1:
        raise ArchiveError(f"{folder} holds {len(found.studies) or 'no'} DICOM studies; name a folder with one.")
    ((study, series),) = found.studies.items()
    now = datetime.now(UTC)
    stored = {
        uid: [StoredInstance(header, header.sop_instance_uid, "", "", 0, "", now) for header in headers]
        for uid, headers in series.items()
    }
    return stored, lambda instance: found.paths[study, instance.header.sop_instance_uid]


def _of_node(settings: Settings, text: str) -> tuple[Stored, _Locate]:
    return study_of_node(settings, text).series, FileStore(settings.data_dir).locate
