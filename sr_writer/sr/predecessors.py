"""The reports of an earlier analysis that a report takes the place of (PS3.3 C.17.2)."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from sr_writer.sr.earlier import evidence_of
from study.entities import Predecessor


def predecessor_documents(predecessors: Sequence[Predecessor], study_instance_uid: str) -> list[Dataset]:
    """Return the items of the Predecessor Documents Sequence: by study, by series (PS3.3 C.17.2.1)."""
    return evidence_of([_reference(each, study_instance_uid) for each in predecessors])


def _reference(predecessor: Predecessor, study_instance_uid: str) -> Dataset:
    reference = Dataset()
    reference.StudyInstanceUID = study_instance_uid
    reference.SeriesInstanceUID = predecessor.series_instance_uid
    reference.SOPClassUID = predecessor.sop_class_uid
    reference.SOPInstanceUID = predecessor.sop_instance_uid
    return reference
