"""What an archive's answers to a C-FIND say, held against what was asked: an answer that can not be true is an error.

Everything here came from the wire. Values that nobody relies on are read leniently; a UID or a count that is none is
never taken for "not told".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import Final, TypeVar

from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom.dsutils import decode

from scp.association.conversation import Answer
from study import elements
from study.errors import QueryFailed
from study.holdings import ArchivedInstance, ArchivedSeries, ArchivedStudy
from study.uids import is_storable_uid

_MOST_IN_A_COUNT: Final = 1_000_000
_LONGEST_TEXT: Final = 512  # characters; of the attributes asked for a PN of three groups is the longest, with 194
_UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    EOFError,
    OSError,
    RecursionError,
    InvalidDicomError,
)

Held = TypeVar("Held", ArchivedStudy, ArchivedSeries, ArchivedInstance)


def decoded(answer: Answer) -> Dataset:
    """Return the identifier of an answer.

    Raises
    ------
    QueryFailed
        If it can not be decoded.
    """
    syntax = UID(answer.transfer_syntax_uid)
    try:
        return decode(BytesIO(answer.identifier), syntax.is_implicit_VR, syntax.is_little_endian)
    except _UNREADABLE as error:
        raise QueryFailed(f"An answer can not be decoded ({type(error).__name__}).") from error


def hold_against(dataset: Dataset, level: str, above: Mapping[str, str]) -> None:
    """Make sure that an answer is of the level and of the study and series that were asked for.

    Parameters
    ----------
    above
        The UIDs of those by keyword.

    Raises
    ------
    QueryFailed
        If it names others. One that leaves them out is taken to mean those.
    """
    told = elements.text(dataset, "QueryRetrieveLevel")
    if told and told != level:
        raise QueryFailed(f"An answer at the {level} level says that it is one at another.")
    for keyword, value in above.items():
        if elements.text(dataset, keyword) not in ("", value):
            raise QueryFailed(f"An answer has another {_spoken(keyword)} than was asked for.")


def study_of(dataset: Dataset) -> ArchivedStudy:
    """Return what an answer at the STUDY level says.

    Raises
    ------
    QueryFailed
        If it can not be true.
    """
    return ArchivedStudy(
        study_instance_uid=_uid(dataset, "StudyInstanceUID"),
        patient_id=_text(dataset, "PatientID"),
        issuer_of_patient_id=_text(dataset, "IssuerOfPatientID"),
        patient_name=_text(dataset, "PatientName"),
        patient_birth_date=_text(dataset, "PatientBirthDate"),
        patient_sex=_text(dataset, "PatientSex"),
        study_date=_text(dataset, "StudyDate"),
        study_time=_text(dataset, "StudyTime"),
        study_description=_text(dataset, "StudyDescription"),
        accession_number=_text(dataset, "AccessionNumber"),
        modalities=tuple(text[:_LONGEST_TEXT] for text in elements.texts(dataset, "ModalitiesInStudy") if text),
        instances=_count(dataset, "NumberOfStudyRelatedInstances"),
    )


def series_of(dataset: Dataset) -> ArchivedSeries:
    """Return what an answer at the SERIES level says.

    Raises
    ------
    QueryFailed
        If it can not be true.
    """
    return ArchivedSeries(
        series_instance_uid=_uid(dataset, "SeriesInstanceUID"),
        modality=_text(dataset, "Modality"),
        series_number=elements.integer(dataset, "SeriesNumber"),
        series_description=_text(dataset, "SeriesDescription"),
        body_part_examined=_text(dataset, "BodyPartExamined"),
        instances=_count(dataset, "NumberOfSeriesRelatedInstances"),
    )


def instance_of(dataset: Dataset) -> ArchivedInstance:
    """Return what an answer at the IMAGE level says.

    Raises
    ------
    QueryFailed
        If it can not be true.
    """
    told = elements.text(dataset, "SOPClassUID")
    return ArchivedInstance(_uid(dataset, "SOPInstanceUID"), _uid(dataset, "SOPClassUID") if told else "")


def failed_uids(answer: Answer) -> tuple[str, ...]:
    """Return the Failed SOP Instance UID List (0008,0058) of the last response to a C-GET or C-MOVE.

    It is optional (PS3.4 C.4.2.1.4.2): one that is absent or can not be read is empty.
    """
    if not answer.identifier:
        return ()
    try:
        told = elements.texts(decoded(answer), "FailedSOPInstanceUIDList")
    except QueryFailed:
        return ()
    return tuple(uid for uid in dict.fromkeys(told) if is_storable_uid(uid))


def each_once(found: Iterable[Held], uid_of: Callable[[Held], str]) -> tuple[Held, ...]:
    """Return what was found in order of UID, each once.

    Raises
    ------
    QueryFailed
        If two that differ have one UID.
    """
    known: dict[str, Held] = {}
    for held in found:
        if known.setdefault(uid_of(held), held) != held:
            raise QueryFailed(f"It describes {uid_of(held)} twice, and not alike.")
    return tuple(known[uid] for uid in sorted(known))


def _uid(dataset: Dataset, keyword: str) -> str:
    found = elements.text(dataset, keyword)
    if not is_storable_uid(found):
        raise QueryFailed(f"An answer has no {_spoken(keyword)}, or one that is none.")
    return found


def _text(dataset: Dataset, keyword: str) -> str:
    return elements.text(dataset, keyword)[:_LONGEST_TEXT]


def _count(dataset: Dataset, keyword: str) -> int | None:
    """Return a number of instances; None where it is absent, empty or 0, as of an archive that does not count."""
    if not _has_value(dataset, keyword):
        return None
    found = elements.integer(dataset, keyword)
    if found is None or not 0 <= found <= _MOST_IN_A_COUNT:
        raise QueryFailed(f"An answer's {_spoken(keyword)} can not be.", {"count": -1 if found is None else found})
    return found or None


def _has_value(dataset: Dataset, keyword: str) -> bool:
    """Tell whether there is a value, be it one that can not be converted."""
    if keyword not in dataset:
        return False
    value = dataset.get_item(keyword).value
    return bool(value.strip(b" \0")) if isinstance(value, bytes) else value not in (None, "")


def _spoken(keyword: str) -> str:
    """Return ``Study Instance UID`` for ``StudyInstanceUID``."""
    return dictionary_description(keyword)
