"""``hilum withdraw``: results that are still here stay here; what peers have is rejected there, by a Key Object."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from db.delivery import acceptance, withdrawals
from db.delivery.withdrawals import Changed, KeyObject, Placed, Whereabouts
from db.engine import Database, UnitOfWork
from db.files.filestore import FileStore
from db.lasting import removals
from db.lasting.ledger import job_record
from db.overview.queries import find_studies
from db.work import jobs
from hilum.accounts import account
from hilum.config import Settings
from hilum.moments import zone_at
from hilum.rejecting import rejected_kept
from hilum.working.leases import owner
from sr_writer.checking.objects import checked
from sr_writer.context import ResultContext
from sr_writer.ko.rejection import REJECTION, Rejection, maker_of, subject_of, write_rejection
from sr_writer.saving import saved
from study.entities import Job, ResultObject, Withdrawal
from study.errors import ArchiveError
from study.forms import SOP_CLASSES, Acceptance, Form

_FROZEN_SECONDS: Final = 120.0  # writing hundreds of rejections takes less
_MOST_TRIES: Final = 5
_MOST_NAMED: Final = 10
_MOST_WORDS: Final = 500
_BY_HAND: Final = "no rejection can be written. Have the objects removed at the peers by hand; hilum show names them."


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where the results of a job are.

    Parameters
    ----------
    results
        Those that were not taken back.
    placed
        Where each is, as seen from each peer that it was for.
    refusing
        Why a peer can not be sent a rejection, by its name.
    """

    job: Job
    results: Sequence[ResultObject]
    placed: Sequence[Placed]
    refusing: Mapping[str, str]


def find_job(uow: UnitOfWork, text: str) -> Job:
    """Return the job whose results `text` stands for: one of their SOP Instance UIDs, its beginning, or their study.

    Raises
    ------
    ArchiveError
        If it is none, or several.
    """
    found = withdrawals.jobs_of(uow, text, exactly=True)
    if not found:
        studies = find_studies(uow, text)
        found = [job for study in studies for job in withdrawals.jobs_of_study(uow, study)]
        found += [job for job in withdrawals.jobs_of(uow, text, exactly=False) if job not in found]
    if not found:
        raise ArchiveError(f"No result {text}; hilum show STUDY names those of a study.")
    if len(found) > 1:
        named = ", ".join(_named(uow, job) for job in found[:_MOST_NAMED])
        raise ArchiveError(f"{text} stands for the results of {len(found)} analyses: {named}; give one of these UIDs.")
    return jobs.job_by_id(uow, found[0])


def look(uow: UnitOfWork, settings: Settings, job: Job, owner_name: str = "") -> Standing:
    """Return where the results of a job are.

    Parameters
    ----------
    owner_name
        Under whose name the job is frozen.

    Raises
    ------
    ArchiveError
        If retention removed the results: what rejects them is made of their files.
    """
    there = withdrawals.placed(uow, job.id, owner_name)
    peers = dict.fromkeys(each.peer for each in there)
    refusing = {name: words for name in peers if (words := _why_refusing(uow, settings, name))}
    kept = withdrawals.kept(uow, job.id)
    if kept:
        removals.demand_results(uow, [job.id], _BY_HAND)
    return Standing(job, kept, there, refusing)


def preview(standing: Standing, rejection: Rejection) -> Iterator[str]:
    """Give what taking the results back will do, one line for each peer and what becomes of its objects."""
    job, count = standing.job, len(standing.results)
    forms = ", ".join(dict.fromkeys(result.form for result in standing.results))
    yield f"{job.model_name} on study {job.study_instance_uid}, job {job.id}: {count} object(s) ({forms})"
    by_peer: dict[str, dict[Whereabouts, list[Placed]]] = defaultdict(lambda: defaultdict(list))
    for each in standing.placed:
        by_peer[each.peer][each.whereabouts].append(each)
    title = f"{rejection.title.value} {rejection.title.scheme}, {rejection.title.meaning}"
    for peer, places in by_peer.items():
        for where, objects in places.items():
            yield f"  {peer}: {_becomes(where, objects, title, standing.refusing.get(peer, ''))}"
    if not by_peer:
        yield "  they are with no peer, and owed to none"


def take_back(settings: Settings, database: Database, job: Job, rejection: Rejection) -> Withdrawal:
    """Take the results of a job back, and owe the peers that have them a rejection.

    Raises
    ------
    EncodingError
        If a rejection can not be written, or would break a rule; then nothing is taken back.
    ArchiveError
        If the file of a result that a peer has can not be read, or nothing is left to be taken back.
    """
    store = FileStore(settings.data_dir)
    name = owner(store, settings.machine, "withdraw")
    try:
        for _ in range(_MOST_TRIES):
            try:
                return _try(settings, database, store, job, rejection, name)
            except Changed:
                continue
        raise Changed
    finally:
        with database.writing() as uow:
            withdrawals.thaw(uow, job.id, name)
            uow.commit()


def demand_words(words: str) -> str:
    """Return why results are taken back, on one line.

    Raises
    ------
    ArchiveError
        If it says nothing, or is no reason but a treatise.
    """
    line = " ".join(words.split())
    if not 1 <= len(line) <= _MOST_WORDS:
        raise ArchiveError(f"--reason needs 1 to {_MOST_WORDS} characters: it is what the archive and its readers see.")
    return line


def _named(uow: UnitOfWork, job: int) -> str:
    results = withdrawals.kept(uow, job)
    return f"{jobs.job_by_id(uow, job).model_name} {results[0].sop_instance_uid if results else '(taken back)'}"


def _why_refusing(uow: UnitOfWork, settings: Settings, name: str) -> str:
    peer = settings.peers.get(name)
    if peer is None or not peer.results:
        return "the configuration sends it nothing any more"
    known = acceptance.known(uow, name, peer.address)
    refused = known.get(SOP_CLASSES[Form.REJECTION]) is Acceptance.REFUSED
    return "it takes no Key Objects" if refused else ""


def _becomes(where: Whereabouts, objects: Sequence[Placed], title: str, refusing: str) -> str:
    count = f"{len(objects)} object(s)"
    if where is Whereabouts.HERE:
        return f"does not have {count}, and is not sent them"
    named = ", ".join(each.object.sop_instance_uid for each in objects[:_MOST_NAMED])
    what = {
        Whereabouts.THERE: f"has {count}",
        Whereabouts.UNSURE: f"may have {count}, since an answer was lost",
        Whereabouts.HELD: f"is being sent {count} just now",
    }[where]
    if refusing:
        return f"{what}; {refusing}: have them removed there by hand, {named}"
    return f"{what}: it is sent a rejection ({title}){' of what it stores' if where is Whereabouts.HELD else ''}"


def _try(
    settings: Settings, database: Database, store: FileStore, job: Job, rejection: Rejection, name: str
) -> Withdrawal:
    with database.writing() as uow:
        withdrawals.freeze(uow, job.id, name, _FROZEN_SECONDS)
        uow.commit()
    with database.reading() as uow:
        standing, at = look(uow, settings, job, name), uow.now()
    if not standing.results:
        raise ArchiveError("Nothing of these results is left that could be taken back.")
    key_objects = list(_written(settings, store, standing, rejection, at))
    by = account()
    with database.writing() as uow:
        done = withdrawals.take_back(uow, job.id, name, by, rejection.words, rejection.safety, key_objects)
        store.append_manifest(job.study_instance_uid, job_record(uow, "withdrawn", job.id))
        uow.commit()
    return done


def _written(
    settings: Settings, store: FileStore, standing: Standing, rejection: Rejection, at: datetime
) -> Iterator[KeyObject]:
    """Write what may have to be sent to each peer; peers with the same objects share it."""
    headers: dict[str, Dataset] = {}
    files: dict[frozenset[str], ResultObject] = {}
    for peer, group in _groups(standing.placed):
        uids = frozenset(each.object.sop_instance_uid for each in group)
        if uids not in files:
            for each in group:
                headers.setdefault(each.object.sop_instance_uid, _header(store.root / each.object.path))
            rejected = [headers[each.object.sop_instance_uid] for each in group]
            files[uids] = _write(settings, store, standing.job, rejection, rejected, at)
        yield KeyObject(peer, uids, files[uids], standing.refusing.get(peer, ""))


def _groups(placed: Sequence[Placed]) -> Iterator[tuple[str, Sequence[Placed]]]:
    """Yield what one Key Object rejects at a peer: all that it has for certain, and each other object alone."""
    certain: dict[str, list[Placed]] = defaultdict(list)
    for each in placed:
        if each.whereabouts is Whereabouts.THERE:
            certain[each.peer].append(each)
        elif each.whereabouts is not Whereabouts.HERE:
            yield each.peer, [each]
    yield from certain.items()


def _header(path: Path) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values, and may be a patient's
        try:
            return dcmread(path, stop_before_pixels=True)
        except (OSError, InvalidDicomError, EOFError) as error:
            raise ArchiveError(
                f"{path} can not be read ({type(error).__name__}), so no rejection can be written; have its peers "
                "remove it by hand."
            ) from error


def _write(
    settings: Settings, store: FileStore, job: Job, rejection: Rejection, rejected: Sequence[Dataset], at: datetime
) -> ResultObject:
    context = ResultContext(
        instances_digest=job.instances_digest,
        parameters_digest=job.parameters_digest,
        created_at=at,
        time_zone=zone_at(settings.results.time_zone, at),
        disclaimer=f" - {settings.results.disclaimer}" if settings.results.disclaimer else "",
        position=int(job.parameters.get("series_position", 0)),
        allow_empty_patient_id=True,  # the results have what the site allowed when they were made
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = write_rejection(rejection, rejected, maker_of(rejected[0], version("hilum")), context)
        digest = hashlib.sha256(str(made.SOPInstanceUID).encode()).hexdigest()[:12]
        folder = store.results_folder(job.study_instance_uid) / f"{job.id}-rejection-{digest}"
        with rejected_kept(folder, settings.data_dir):
            result = saved(REJECTION, 1, made, folder)
            checked(Form.REJECTION, folder / result.path, [subject_of(rejected)], rejected)
    path = (folder / result.path).resolve().relative_to(settings.data_dir)
    return dataclasses.replace(result, path=str(path))
