"""Judges a chaos run by the wire log, Orthanc and the disk alone; what the node believes is not asked."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.chaos.modality import StudyOnTheWay, digests_below
from tests.support.orthanc import Orthanc

FORMS = ("SEG", "SR")


@dataclass(frozen=True)
class Verdict:
    """What Orthanc holds of a study's results, by their SOP Instance UIDs.

    Parameters
    ----------
    current
        On all images of the study.
    earlier
        On a part of them, rightly: the modality was silent for so long in between that the study seemed to be over.
    twice
        More of a form on the same images than one, or on a part of them without a reason.
    missing
        Forms of which there is none on all images.
    """

    current: tuple[str, ...]
    earlier: tuple[str, ...]
    twice: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Tell whether every form is there."""
        return not self.missing


def has_every_form(orthanc: Orthanc, study: StudyOnTheWay) -> bool:
    """Tell, cheaply, whether Orthanc holds at least one result of each form."""
    found = orthanc.instances(StudyInstanceUID=study.uid)
    return len(found) >= len(FORMS) and judge(orthanc, study, 0.0).is_whole


def judge(orthanc: Orthanc, study: StudyOnTheWay, silence_seconds: float) -> Verdict:
    """Return what became of a study.

    Parameters
    ----------
    silence_seconds
        So long a gap between two acknowledgements may have ended the study for the node.
    """
    current: list[str] = []
    earlier: list[str] = []
    twice: list[str] = []
    seen: set[tuple[str, frozenset[str]]] = set()
    for instance in orthanc.instances(StudyInstanceUID=study.uid):
        result = dcmread(BytesIO(orthanc.get_bytes(f"/instances/{instance['ID']}/file")), stop_before_pixels=True)
        uid, on = str(result.SOPInstanceUID), _images_of(result) & study.images
        if (result.Modality, on) in seen or (on != study.images and study.gap < silence_seconds):
            twice.append(uid)
        elif on == study.images:
            current.append(uid)
        else:
            earlier.append(uid)
        seen.add((result.Modality, on))
    missing = tuple(form for form in FORMS if (form, study.images) not in seen)
    return Verdict(tuple(current), tuple(earlier), tuple(twice), missing)


def lost(data_dir: Path, study_instance_uid: str, acknowledged: set[str]) -> set[str]:
    """Return which acknowledged data sets of a study are nowhere on the disk, compared by their bytes' digest.

    Files move from the inbox to the store meanwhile: the inbox is read first, and once more behind the store.
    """
    places = (data_dir / "inbox", data_dir / "store" / study_instance_uid)
    left = set(acknowledged)
    for place in (*places, *places):
        if left:
            left -= set(digests_below([place]))
    return left


def _images_of(result: Dataset) -> frozenset[str]:
    """Return the SOP Instance UIDs that a result refers to, wherever it does (PS3.3 C.12.1, C.17.2)."""
    found: set[str] = set()
    for element in result.iterall():
        if element.keyword == "ReferencedSOPInstanceUID":
            found.add(str(element.value))
    return frozenset(found)
