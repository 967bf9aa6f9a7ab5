"""The rows that instances hang on: patients, studies and series, made when their first instance arrives."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, insert, select, update

from db.engine import UnitOfWork
from db.tables import PatientRow, SeriesRow, StudyRow, StudySenderRow
from study.entities import StoredInstance
from study.errors import ArchiveError
from study.headers import InstanceHeader

_LARGEST_NUMBER = 2**63 - 1


@dataclass(frozen=True)
class StudyPlace:
    """A study's key in the database and where it stands; `created` where this transaction made it."""

    id: int
    generation: int
    receiving: bool
    last_received_at: datetime
    created: bool = False


_STUDY_COLUMNS = (
    StudyRow.study_instance_uid,
    StudyRow.id,
    StudyRow.generation,
    StudyRow.receiving,
    StudyRow.last_received_at,
)


def study(uow: UnitOfWork, study_instance_uid: str, *, for_update: bool = False) -> StudyPlace:
    """Return where the study stands.

    Parameters
    ----------
    for_update
        Keep other transactions from changing it until this one ends.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    query = select(*_STUDY_COLUMNS).where(StudyRow.study_instance_uid == study_instance_uid)
    row = uow.execute(query.with_for_update() if for_update else query).first()
    if row is None:
        raise ArchiveError("The index knows no such study.")
    return StudyPlace(row.id, row.generation, row.receiving, row.last_received_at)


def ensure_studies(uow: UnitOfWork, instances: Sequence[StoredInstance]) -> dict[str, StudyPlace]:
    """Return the place of each study by its UID; those that were not there are made."""
    firsts: dict[str, StoredInstance] = {}
    for instance in instances:
        uid = instance.header.study_instance_uid
        if uid not in firsts or instance.received_at < firsts[uid].received_at:
            firsts[uid] = instance
    found = _find_studies(uow, firsts)
    missing = [instance for uid, instance in firsts.items() if uid not in found]
    if missing:
        patients = _ensure_patients(uow, [instance.header for instance in missing])
        rows = [
            _described(instance.header, patients)
            | {
                "study_instance_uid": instance.header.study_instance_uid,
                "first_received_at": instance.received_at,
                "last_received_at": instance.received_at,
                "generation": 0,
                "receiving": True,
                "evaluation_due": True,
            }
            for instance in missing
        ]
        uow.execute(insert(StudyRow), rows)
        found |= _find_studies(uow, [row["study_instance_uid"] for row in rows], created=True)
    return found


def ensure_series(
    uow: UnitOfWork, instances: Sequence[StoredInstance], studies: Mapping[str, StudyPlace]
) -> dict[tuple[int, str], int]:
    """Return the key of each series by (key of the study, Series Instance UID); those not there are made."""
    firsts: dict[tuple[int, str], InstanceHeader] = {}
    for instance in instances:
        header = instance.header
        firsts.setdefault((studies[header.study_instance_uid].id, header.series_instance_uid), header)
    found = _find_series(uow, firsts)
    missing = [key for key in firsts if key not in found]
    if missing:
        rows = [
            {
                "study": key[0],
                "series_instance_uid": key[1],
                "modality": firsts[key].modality,
                "series_number": _storable_number(firsts[key].series_number),
                "series_description": firsts[key].series_description,
            }
            for key in missing
        ]
        uow.execute(insert(SeriesRow), rows)
        found |= _find_series(uow, missing)
    return found


def renew(
    uow: UnitOfWork,
    studies: Iterable[StudyPlace],
    newest: Mapping[int, StoredInstance | datetime],
    changed: Iterable[int],
    gained: Mapping[int, int],
) -> None:
    """Mark the `changed` studies as receiving, with what their newest instance says of them.

    Parameters
    ----------
    newest
        By the study's key: its newest arrival, or only the time of it where the instance itself was known.
    gained
        How much the files of new instances hold [bytes], by the study's key.
    """
    times = {key: value if isinstance(value, datetime) else value.received_at for key, value in newest.items()}
    rows = [
        {
            "key": place.id,
            "last": max(place.last_received_at, times[place.id]),
            "gained": gained.get(place.id, 0),
        }
        for place in studies
        if place.id in set(changed)
    ]
    if not rows:
        return
    uow.execute(
        update(StudyRow)
        .where(StudyRow.id == bindparam("key"))
        .values(
            last_received_at=bindparam("last"),
            generation=StudyRow.generation + 1,
            stored_bytes=StudyRow.stored_bytes + bindparam("gained"),
            receiving=True,
            evaluation_due=True,
            discarded_at=None,  # whoever let go of what failed had not seen these
        ),
        rows,
    )
    headers = {key: value.header for key, value in newest.items() if isinstance(value, StoredInstance)}
    patients = _ensure_patients(uow, list(headers.values()))
    described = [_described(header, patients) | {"key": key} for key, header in headers.items()]
    if described:
        uow.execute(update(StudyRow).where(StudyRow.id == bindparam("key")), described)


def senders(uow: UnitOfWork, study: int) -> frozenset[str]:
    """Return the AE titles that sent any instance of the study."""
    query = select(StudySenderRow.calling_ae_title).where(StudySenderRow.study == study)
    return frozenset(uow.execute(query).scalars())


def want_again(uow: UnitOfWork, studies: Collection[int]) -> None:
    """Have those of the studies analysed after all, of which images came again, that were passed over after a pause."""
    let_go = update(StudyRow).where(StudyRow.id.in_(list(studies)), StudyRow.passed_over)
    uow.execute(let_go.values(passed_over=False, evaluation_due=True))


def note_senders(uow: UnitOfWork, found: Mapping[int, Collection[str]]) -> None:
    """Remember who sent something of each study, by its key; a new sender's study is due for evaluation.

    What was fetched, or came from somebody whose studies are only stored, may be analysed once another sends it.
    """
    query = select(StudySenderRow.study, StudySenderRow.calling_ae_title).where(StudySenderRow.study.in_(list(found)))
    known = {(row.study, row.calling_ae_title) for row in uow.execute(query)}
    fresh = {(study, title) for study, titles in found.items() for title in titles} - known
    if not fresh:
        return
    uow.execute(insert(StudySenderRow), [{"study": study, "calling_ae_title": title} for study, title in fresh])
    due = update(StudyRow).where(StudyRow.id.in_({study for study, _ in fresh}))
    uow.execute(due.values(evaluation_due=True))


def _find_studies(uow: UnitOfWork, uids: Iterable[str], *, created: bool = False) -> dict[str, StudyPlace]:
    query = select(*_STUDY_COLUMNS).where(StudyRow.study_instance_uid.in_(list(uids))).with_for_update()
    return {
        row.study_instance_uid: StudyPlace(row.id, row.generation, row.receiving, row.last_received_at, created)
        for row in uow.execute(query)
    }


def _find_series(uow: UnitOfWork, keys: Iterable[tuple[int, str]]) -> dict[tuple[int, str], int]:
    wanted = list(keys)
    query = select(SeriesRow.study, SeriesRow.series_instance_uid, SeriesRow.id).where(
        SeriesRow.study.in_({study for study, _ in wanted}),
        SeriesRow.series_instance_uid.in_({uid for _, uid in wanted}),
    )
    return {(row.study, row.series_instance_uid): row.id for row in uow.execute(query)}


def ensure_patient(uow: UnitOfWork, identity: Mapping[str, Any]) -> int:
    """Return the key of a patient whose row, without its key, is `identity`; made where it is not there."""
    query = select(PatientRow.id).where(PatientRow.identity_digest == identity["identity_digest"])
    key: int | None = uow.execute(query).scalar()
    return key or uow.execute(insert(PatientRow).values(dict(identity)).returning(PatientRow.id)).scalar_one()


def _ensure_patients(uow: UnitOfWork, headers: Sequence[InstanceHeader]) -> dict[str, int]:
    """Return the key of each patient by the digest of what identifies him."""
    by_digest = {_identity_digest(header): header for header in headers}
    query = select(PatientRow.identity_digest, PatientRow.id).where(PatientRow.identity_digest.in_(list(by_digest)))
    found = {row.identity_digest: row.id for row in uow.execute(query)}
    missing = [digest for digest in by_digest if digest not in found]
    if missing:
        rows = [{"identity_digest": digest} | _identity(by_digest[digest]) for digest in missing]
        uow.execute(insert(PatientRow), rows)
        again = select(PatientRow.identity_digest, PatientRow.id).where(PatientRow.identity_digest.in_(missing))
        found |= {row.identity_digest: row.id for row in uow.execute(again)}
    return found


def _identity(header: InstanceHeader) -> dict[str, str]:
    return {
        "patient_id": header.patient_id,
        "issuer_of_patient_id": header.issuer_of_patient_id,
        "patient_name": header.patient_name,
        "patient_birth_date": header.patient_birth_date,
        "patient_sex": header.patient_sex,
    }


def _identity_digest(header: InstanceHeader) -> str:
    joined = "\0".join(value.replace("\0", "") for value in _identity(header).values())
    return hashlib.sha256(joined.encode("utf-8", "replace")).hexdigest()


def _described(header: InstanceHeader, patients: Mapping[str, int]) -> dict[str, Any]:
    return {
        "patient": patients[_identity_digest(header)],
        "accession_number": header.accession_number,
        "study_description": header.study_description,
        "study_date": header.study_date,
    }


def _storable_number(number: int | None) -> int | None:
    """Return `number`, or None where it is greater than any Integer String (PS3.5 6.2) and than the column holds."""
    return None if number is None or abs(number) > _LARGEST_NUMBER else number
