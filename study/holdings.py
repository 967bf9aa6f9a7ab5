"""What an archive says that it holds: the answers to queries at the STUDY, SERIES and IMAGE level (PS3.4 C.6.2).

Only unique keys are sure to be there; every other attribute is "" or None where the archive leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ArchivedStudy:
    """A study that an archive holds.

    Parameters
    ----------
    modalities
        Modalities in Study (0008,0061).
    instances
        Number of Study Related Instances (0020,1208); None where the archive does not tell.
    """

    study_instance_uid: str
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    accession_number: str = ""
    modalities: tuple[str, ...] = ()
    instances: int | None = None


@dataclass(frozen=True)
class ArchivedSeries:
    """A series that an archive holds.

    Parameters
    ----------
    instances
        Number of Series Related Instances (0020,1209); None where the archive does not tell.
    """

    series_instance_uid: str
    modality: str = ""
    series_number: int | None = None
    series_description: str = ""
    body_part_examined: str = ""
    instances: int | None = None


@dataclass(frozen=True)
class ArchivedInstance:
    """An instance that an archive holds; `sop_class_uid` is "" where the archive does not tell."""

    sop_instance_uid: str
    sop_class_uid: str = ""
