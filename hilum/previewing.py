"""Pictures of a study's results, drawn from the files that the node keeps: ``hilum preview``, and the demo's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import instances_of_job
from db.lasting import removals
from db.overview.queries import study_record
from hilum.config import Settings
from hilum.planning import ordered_slices
from hilum.wording import reason_words
from inference.pixels import Pixels, pixels_of_images, pixels_of_slices
from sr_writer.picture.gallery import write_captures_as_pictures, write_gallery
from sr_writer.picture.stored import captures_among, scene_of_files
from study.entities import Job, StudyRecord
from study.errors import ArchiveError, EncodingError
from study.frames import flattened
from study.headers import InstanceHeader

_Reader = Callable[[Sequence[Path], Sequence[InstanceHeader]], Pixels]


@dataclass(frozen=True, eq=False)
class SourceImages:
    """The images that a job was about, in slice order: their headers, without pixels, and what reads the pixels."""

    headers: tuple[Dataset, ...]
    pixels: Pixels


def preview_study(settings: Settings, database: Database, study_instance_uid: str, out: Path) -> list[Path]:
    """Draw the current results of a study, and return the paths of the pictures.

    They are in a folder of the study's own within `out`, so that no two patients' pictures mix; those of an earlier
    preview of it are gone.

    Raises
    ------
    ArchiveError
        If the study has no result that could be drawn; the words say why.
    """
    with database.reading() as uow:
        record = study_record(uow, study_instance_uid)
    if record is None:
        raise ArchiveError(f"No study {study_instance_uid}; hilum studies lists them.")
    folder, pictures = out / study_instance_uid, list[Path]()
    for old in folder.glob("*.png"):
        old.unlink()
    for job in (job for job in record.jobs if job.current):
        results = [settings.data_dir / result.path for job_id, result in record.results if job_id == job.id]
        if results:
            with database.reading() as uow:
                removals.demand_results(uow, [job.id], "there is nothing to draw. The PACS shows what it was sent.")
                removals.demand_images(uow, job.id, "its results can not be drawn. The PACS shows what it was sent.")
            pictures += draw_results(results, source_images(settings, database, job), folder, job.model_name)
    if not pictures:
        raise ArchiveError(f"There is nothing to draw of study {study_instance_uid}: {_why_none(record)}")
    return pictures


def draw_results(results: Sequence[Path], source: SourceImages, out: Path, name: str) -> list[Path]:
    """Draw the objects of one result into `out`, and return the paths of the pictures.

    Parameters
    ----------
    name
        Of the model; begins the names of the files.

    Raises
    ------
    ArchiveError
        If a result is not there any more.
    """
    missing = [path for path in results if not path.exists()]
    if missing:
        raise ArchiveError(f"{len(missing)} result files are not where they were written, among them {missing[0]}.")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".") or "result"
    try:
        scene = scene_of_files(results, source.headers, source.pixels)
    except EncodingError:  # neither Segmentation nor report: what is a picture already is still one
        return write_captures_as_pictures(captures_among(results), out, stem)
    return write_gallery(scene, out, stem)


def source_images(settings: Settings, database: Database, job: Job) -> SourceImages:
    """Return the images that a job was about, as the node stored them."""
    store = FileStore(settings.data_dir)
    with database.reading() as uow:
        instances = instances_of_job(uow, job.id)
    located = [(str(store.locate(one)), one.header) for one in instances]
    slices, geometry = ordered_slices(located, job.parameters)
    return _images(slices, pixels_of_images if geometry is None else pixels_of_slices)


def _images(slices: Sequence[tuple[str, InstanceHeader]], reader: _Reader) -> SourceImages:
    paths, headers = [Path(path) for path, _ in slices], [header for _, header in slices]
    files = {path: dcmread(path, stop_before_pixels=True) for path in dict.fromkeys(paths)}
    datasets = [
        files[path] if header.frame_number is None else flattened(files[path], header.frame_number)
        for path, header in zip(paths, headers, strict=True)
    ]
    return SourceImages(tuple(datasets), reader(paths, headers))


def _why_none(record: StudyRecord) -> str:
    reasons = [
        f"{job.model_name}: {reason_words(job.reason)}" if job.reason else f"{job.model_name} is {job.state.value}"
        for job in record.jobs
        if job.current and not any(job_id == job.id for job_id, _ in record.results)
    ]
    if record.summary.reason:
        reasons.append(reason_words(record.summary.reason))
    forms = ", ".join(sorted({result.form for _, result in record.results}))
    if forms:
        reasons.append(f"of its results ({forms}) it draws none: open them in a viewer")
    return "; ".join(reasons) or f"it is {record.summary.state.value}"
