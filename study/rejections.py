"""What a Key Object that comes in rejects.

IHE RAD Imaging Object Change Management (IOCM, RAD-66) tells it by a Key Object Selection with one of four titles
(PS3.16 CID 7011): for quality, for patient safety, for a wrong worklist entry, or because the retention period is over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from study.uids import is_storable_uid

KEY_OBJECT_SELECTION: Final = "1.2.840.10008.5.1.4.1.1.88.59"
"""SOP Class UID of Key Object Selection Document Storage (PS3.4 B.5)."""


class RejectionTitle(StrEnum):
    """The document titles of rejections, by their code values (DCM)."""

    QUALITY = "113001"
    PATIENT_SAFETY = "113037"
    WORKLIST = "113038"
    RETENTION = "113039"
    UNREAD = ""  # the Key Object could not be read

    @property
    def words(self) -> str:
        """Return the code meaning."""
        return _MEANINGS[self]

    @property
    def excludes(self) -> bool:
        """Tell whether what is rejected so is wrong, and no model may read it; what may only be deleted is not."""
        return self in _EXCLUDING


_MEANINGS: Final = {
    RejectionTitle.QUALITY: "Rejected for Quality Reasons",
    RejectionTitle.PATIENT_SAFETY: "Rejected for Patient Safety Reasons",
    RejectionTitle.WORKLIST: "Incorrect Modality Worklist Entry",
    RejectionTitle.RETENTION: "Data Retention Policy Expired",
    RejectionTitle.UNREAD: "Key Object that could not be read",
}
_EXCLUDING: Final = frozenset({RejectionTitle.QUALITY, RejectionTitle.PATIENT_SAFETY, RejectionTitle.WORKLIST})


@dataclass(frozen=True)
class RejectionNote:
    """What a Key Object rejects.

    Parameters
    ----------
    named
        (Study Instance UID, SOP Instance UID) of each object, in the order of the document.
    unread
        Why it could not be read, where its title is `UNREAD`.
    """

    title: RejectionTitle
    named: tuple[tuple[str, str], ...] = ()
    unread: str = ""


@dataclass(frozen=True)
class ImageRejection:
    """What a Key Object did to a study, as it is shown.

    Parameters
    ----------
    key_object
        Its SOP Instance UID.
    sop_instance_uids
        What it names of the study, whether it is here or not.
    excluded
        How many of these no model reads because of it.
    lifted_at
        When a person wanted them analysed all the same; None where nobody did.
    """

    key_object: str
    title: RejectionTitle
    received_at: datetime
    sop_instance_uids: tuple[str, ...]
    excluded: int
    lifted_at: datetime | None = None


def is_rejection(title: tuple[str, str]) -> bool:
    """Tell whether a document title, by Code Value and Coding Scheme Designator, is that of a rejection."""
    value, scheme = title
    return scheme == "DCM" and value in set(RejectionTitle) - {RejectionTitle.UNREAD}


def rejection_note(
    title: tuple[str, str], evidence: Iterable[tuple[str, str]], content: Iterable[str], study_instance_uid: str
) -> RejectionNote | None:
    """Return what a Key Object rejects; None where its title is no rejection.

    Parameters
    ----------
    title
        Code Value and Coding Scheme Designator of its document title.
    evidence
        (Study Instance UID, SOP Instance UID) by its Current Requested Procedure Evidence (PS3.3 C.17.6.2).
    content
        SOP Instance UIDs that its content refers to; what its evidence lacks counts as of its own study.
    study_instance_uid
        Of the Key Object itself.
    """
    if not is_rejection(title):
        return None
    named = [pair for pair in evidence if all(is_storable_uid(uid) for uid in pair)]
    placed = {uid for _, uid in named}
    named += [(study_instance_uid, uid) for uid in content if is_storable_uid(uid) and uid not in placed]
    if not named:
        return RejectionNote(RejectionTitle.UNREAD, unread="It rejects, and names no object.")
    return RejectionNote(RejectionTitle(title[0]), tuple(dict.fromkeys(named)))
