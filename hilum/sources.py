"""The headers of the images that a result object was made of: from a folder of files, or from the node's own store."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from db.complete import priors
from db.engine import Database
from db.files.filestore import FileStore
from db.images import index
from db.lasting import removals
from db.work.results import job_of_result, path_of_result
from hilum.planning import ordered_slices, planned_slices
from sr_writer.checking.rules import own_items
from sr_writer.reading.content_tree import items_named
from sr_writer.source.images import SourceKey, keys_of_reference
from study.entities import Job
from study.errors import ArchiveError, StudyRefused
from study.forms import APART, SEGMENTATIONS, SOP_CLASSES, Form
from study.frames import flattened
from study.geometry import FrameOfReferencePolicy, UnevenSpacing, assess
from study.headers import HEADER_KEYWORDS, InstanceHeader
from study.stacks import stacks

Slice = tuple[Path, InstanceHeader]
Series = Mapping[str, Sequence[Slice]]
"""Path and header of each instance, by Series Instance UID."""

_NO_SOURCES = frozenset(SOP_CLASSES[form] for form in SEGMENTATIONS)
"""SOP Classes that results refer to and that are no source images."""


_REMOVED = "give them with --source DIR."


class Sources(Protocol):
    """Where the source images of results are found."""

    def of(self, result: Dataset, form: Form) -> list[Dataset]:
        """Return the headers of the images that a result was made of, in slice order, without pixels.

        Raises
        ------
        ArchiveError
            If they are not here; the words say where they were looked for.
        """

    def earlier(self, result: Dataset) -> list[Dataset]:
        """Return the headers of the earlier series that a result compares with: all their images, without pixels.

        Raises
        ------
        ArchiveError
            If they are not here.
        """

    def made(self, result: Dataset) -> Path | None:
        """Return the file of the object of the same SOP Instance UID as it was made; None where nobody has it."""


class FolderSources:
    """Images in a folder and below it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._headers = _Headers()
        self._studies: dict[str, dict[str, list[Slice]]] | None = None

    def of(self, result: Dataset, form: Form) -> list[Dataset]:
        """Return the headers of the images that a result refers to, with those of the same stack."""
        studies = self._found()
        study = studies.get(str(result.get("StudyInstanceUID", "")))
        # Where there is one study only it is the one that is meant, and the check tells what is wrong with the object
        if study is None and len(studies) == 1:
            (study,) = studies.values()
        if study is None:
            raise ArchiveError(f"{self._folder} holds no image of the object's study.")
        return self._headers.of(_chosen(study, result, f"{self._folder}", form))

    def earlier(self, result: Dataset) -> list[Dataset]:
        """Return the headers of those images in the folder that a result lists as evidence of earlier studies."""
        found: list[Dataset] = []
        for (study, series), uids in earlier_evidence(result).items():
            held = [
                (path, one)
                for path, one in self._found().get(study, {}).get(series, ())
                if one.sop_instance_uid in uids
            ]
            if len(held) < len(uids):
                raise ArchiveError(f"{self._folder} lacks images of an earlier study that the object compares with.")
            found += self._headers.of([(path, each) for path, header in held for each in header.slices()])
        return found

    def _found(self) -> dict[str, dict[str, list[Slice]]]:
        if self._studies is None:
            self._studies = _studies_in(self._folder)
        return self._studies

    def made(self, result: Dataset) -> Path | None:
        """Return None: a folder of images tells nothing of results."""
        del result
        return None


class StoreSources:
    """Images in the node's store."""

    def __init__(self, database: Database, store: FileStore) -> None:
        self._database = database
        self._store = store
        self._headers = _Headers()

    def of(self, result: Dataset, form: Form) -> list[Dataset]:
        """Return the headers of the very images that the result's job was about, or of those that it refers to."""
        with self._database.reading() as uow:
            job = job_of_result(uow, str(result.get("SOPInstanceUID", "")))
            if job is not None:
                stored = index.instances_of_job(uow, job.id)
                if not stored:
                    removals.demand_images(uow, job.id, _REMOVED)
            else:
                series = index.current_instances(uow, str(result.get("StudyInstanceUID", "")))
        if job is not None:
            return self._headers.of(_of_job([(self._store.locate(one), one.header) for one in stored], job, form))
        images = {uid: [one for one in held if _is_image(one.header)] for uid, held in series.items()}
        located = {uid: [(self._store.locate(one), one.header) for one in held] for uid, held in images.items() if held}
        return self._headers.of(_chosen(located, result, "the node's store", form))

    def earlier(self, result: Dataset) -> list[Dataset]:
        """Return the headers of the earlier series that the result's job was given, of those that the result names."""
        named = {series for _, series in earlier_evidence(result)}
        if not named:
            return []
        with self._database.reading() as uow:
            job = job_of_result(uow, str(result.get("SOPInstanceUID", "")))
            held = [] if job is None else priors.priors_of_job(uow, job.id)
            if job is not None and len(held) != len(job.parameters.get("priors", ())):
                removals.demand_images(uow, job.id, _REMOVED)
        if job is None:
            raise ArchiveError("The node did not make the object, and does not know what it was compared with.")
        found: list[Dataset] = []
        for prior, planned in zip(held, job.parameters.get("priors", ()), strict=True):
            if planned["series"] in named:
                images = [(str(self._store.locate(one)), one.header) for one in prior]
                slices = planned_slices(images, planned)
                found += self._headers.of([(Path(path), header) for path, header in slices])
        return found

    def made(self, result: Dataset) -> Path | None:
        """Return the file that the node made and kept; None where it was another node, or the file is gone."""
        with self._database.reading() as uow:
            path = path_of_result(uow, str(result.get("SOPInstanceUID", "")))
        found = None if path is None else self._store.root / path
        return found if found is not None and found.is_file() else None


def earlier_evidence(result: Dataset) -> dict[tuple[str, str], set[str]]:
    """Return the SOP Instance UIDs that a result lists of earlier studies, by study and series (PS3.3 C.17.2)."""
    return {
        (str(study.get("StudyInstanceUID", "")), str(series.get("SeriesInstanceUID", ""))): {
            str(item.get("ReferencedSOPInstanceUID", "")) for item in items_named(series, "ReferencedSOPSequence")
        }
        for study in items_named(result, "PertinentOtherEvidenceSequence")
        for series in items_named(study, "ReferencedSeriesSequence")
    }


def _of_job(instances: Sequence[Slice], job: Job, form: Form) -> Sequence[Slice]:
    """Return the slices as the job's writer had them."""
    if form in APART:  # of a series that may be no volume
        return instances
    slices, _ = ordered_slices([(str(path), header) for path, header in instances], job.parameters)
    return [(Path(path), header) for path, header in slices]


def _chosen(study: Series, result: Dataset, where: str, form: Form) -> list[Slice]:
    """Return the slices of the series that a result refers to: every stack of it that it refers to an image of.

    Raises
    ------
    ArchiveError
        If no series has an image that it refers to.
    """
    if form is Form.REJECTION:  # it refers to results alone, and says no more of the images than whose they are
        return [slices for held in study.values() for slices in held][:1]
    named = set(_referenced(result))
    counts = Counter(
        {uid: sum((one.sop_instance_uid, None) in named for _, one in held) for uid, held in study.items()}
    )
    (uid, count), *_ = counts.most_common(1) or [("", 0)]
    if not count:
        raise ArchiveError(f"{where} holds none of the images that the object refers to.")
    slices = [(path, each) for path, header in study[uid] for each in header.slices()]
    return slices if form is Form.REFUSAL else _in_order(_of_stacks(slices, named))


def _of_stacks(slices: Sequence[Slice], named: set[SourceKey]) -> list[Slice]:
    """Return the slices of every stack that is referred to, by frames of a multi-frame image where they are named."""
    path_of = {id(header): path for path, header in slices}
    found = [stack.headers for stack in stacks([header for _, header in slices])]
    by_frame = [stack for stack in found if any((each.sop_instance_uid, each.frame_number) in named for each in stack)]
    by_image = [stack for stack in found if any((each.sop_instance_uid, None) in named for each in stack)]
    return [(path_of[id(header)], header) for stack in by_frame or by_image for header in stack]


def _in_order(slices: Sequence[Slice]) -> list[Slice]:
    headers = [header for _, header in slices]
    try:
        grid = assess(headers, FrameOfReferencePolicy.BY_POSITION, uneven_spacing=UnevenSpacing.RESAMPLE)
    except StudyRefused:
        return sorted(slices, key=lambda each: (each[1].instance_number or 0, each[1].sop_instance_uid))
    return [slices[index] for index in grid.order]


def _referenced(dataset: Dataset) -> Iterator[SourceKey]:
    """Yield every image that an object refers to, as a whole, and every frame that it names."""
    for item in own_items(dataset):
        if "ReferencedSOPInstanceUID" in item:
            yield str(item.ReferencedSOPInstanceUID), None
            yield from keys_of_reference(item)


class _Headers:
    """Headers as they stand in their files, each read once: hundreds of images may have as many pictures."""

    def __init__(self) -> None:
        self._files: dict[Path, Dataset] = {}
        self._slices: dict[tuple[Path, int | None], Dataset] = {}

    def of(self, slices: Sequence[Slice]) -> list[Dataset]:
        """Return the header of each slice; of a frame of a multi-frame image that of the frame."""
        return [self._slice(path, header.frame_number) for path, header in slices]

    def _slice(self, path: Path, number: int | None) -> Dataset:
        key = (path, number)
        if key not in self._slices:
            if path not in self._files:
                self._files[path] = _read(path)
            whole = self._files[path]
            self._slices[key] = whole if number is None else flattened(whole, number)
        return self._slices[key]


def _read(path: Path) -> Dataset:
    try:
        return dcmread(path, stop_before_pixels=True)
    except (OSError, InvalidDicomError, EOFError) as error:
        raise ArchiveError(f"{path} can not be read any more ({type(error).__name__}).") from error


def _studies_in(folder: Path) -> dict[str, dict[str, list[Slice]]]:
    """Return the images in a folder by study and series, each instance once; files that are none are passed over."""
    studies: dict[str, dict[str, list[Slice]]] = {}
    met = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        header = _header(path)
        if header is not None and _is_image(header) and header.sop_instance_uid not in met:
            met.add(header.sop_instance_uid)
            study = studies.setdefault(header.study_instance_uid, {})
            study.setdefault(header.series_instance_uid, []).append((path, header))
    return studies


def _is_image(header: InstanceHeader) -> bool:
    return bool(header.rows) and header.sop_class_uid not in _NO_SOURCES


def _header(path: Path) -> InstanceHeader | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, and may be a patient's
        try:
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER_KEYWORDS))
            return InstanceHeader.of(dataset, str(dataset.file_meta.get("TransferSyntaxUID", "")))
        except Exception:  # noqa: BLE001 - whatever a strange file makes of the reader, it is no source image
            return None
