"""Earlier studies of the same patient: which of them a model is given beside the series that it analyses.

They belong to the patient by Patient ID and its issuer, never by name alone; where the name, birth date or sex then
contradict, nothing is compared, and that is said. Earlier is what an earlier Study Date says, or on one day an earlier
Study Time; what says neither is never compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Final, Protocol

from study.entities import StoredInstance
from study.errors import Reason
from study.identity import CONFLICTING, Identified, contradictions

NO_PRIOR: Final = "NoPrior"
"""Code of the refusal of a study for which a model that needs an earlier one has none."""
PRIOR_STEP: Final = "prior"
"""The step of an analysis in which earlier series are read, or go through the model."""
NOT_EARLIER: Final = "NotEarlier"
TOO_OLD: Final = "PriorTooOld"
NO_DATE: Final = "NoStudyDate"
ANOTHER_PATIENT: Final = "AnotherPatient"
NO_PATIENT_ID: Final = "NoPatientID"
NO_ARCHIVE: Final = "NoArchive"
NONE_FOUND: Final = "NoPriorFound"
NO_ANSWER: Final = "NoAnswerYet"
INCOMPLETE: Final = "PriorIncomplete"

NOTHING_NEW: Final = frozenset({NO_ARCHIVE, NONE_FOUND})
"""Codes of reasons that most patients have, those without an earlier study: no report is written for them."""

_ANOTHER: Final = {
    "PatientID": "another Patient ID",
    "IssuerOfPatientID": "another issuer of the Patient ID",
    "PatientName": "another name",
    "PatientBirthDate": "another birth date",
    "PatientSex": "another sex",
}
_WHO: Final = frozenset({"PatientID", "IssuerOfPatientID"})
"""What decides which patient is meant; the others can only contradict it."""


class Dated(Identified, Protocol):
    """A study, an image or an answer of an archive that says whose and of when it is; "" where it does not."""

    @property
    def study_instance_uid(self) -> str:
        """Return the Study Instance UID."""

    @property
    def study_date(self) -> str:
        """Return the Study Date."""

    @property
    def study_time(self) -> str:
        """Return the Study Time."""


@dataclass(frozen=True)
class EarlierStudy:
    """An earlier study that is here, with its current instances by Series Instance UID.

    Parameters
    ----------
    archived
        How many instances an archive said that it has of a series, by Series Instance UID; those that it was not asked
        of are left out.
    unready
        Why none of it can be used yet: it still arrives; None where all of it may be.
    """

    study_instance_uid: str
    study_date: str
    series: Mapping[str, tuple[StoredInstance, ...]]
    archived: Mapping[str, int] = field(default_factory=dict)
    unready: Reason | None = None


def day_of(study_date: str) -> date | None:
    """Return a DA as a date, also one with the dots of old (PS3.5 6.2); None where it is none."""
    digits = study_date.strip().replace(".", "")
    if len(digits) != 8 or not (digits.isascii() and digits.isdigit()):
        return None
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None


def day_words(study_date: str) -> str:
    """Return a DA as a reader writes it: "2023-05-11"."""
    day = day_of(study_date)
    return day.isoformat() if day else "an unknown date"


def seconds_of(study_time: str) -> float | None:
    """Return a TM as seconds of the day, also one with the colons of old (PS3.5 6.2); None where it is none."""
    digits, _, fraction = study_time.strip().replace(":", "").partition(".")
    if not (digits + fraction).isascii() or not (digits + fraction).isdigit() or len(digits) not in (2, 4, 6):
        return None
    hours, minutes, seconds = (int(digits[at : at + 2] or 0) for at in (0, 2, 4))
    if hours > 23 or minutes > 59 or seconds > 60:
        return None
    return hours * 3600 + minutes * 60 + seconds + float(f"0.{fraction or 0}")


def why_not_earlier(now: Dated, then: Dated, max_age_days: int) -> Reason | None:
    """Return why a study is no earlier one, or too old; None where it may be compared."""
    today, day = day_of(now.study_date), day_of(then.study_date)
    if today is None or day is None:
        whose = "The study itself" if today is None else "A study of the patient"
        return Reason(NO_DATE, f"{whose} says no date, so it is not known which came first.")
    if now.study_instance_uid == then.study_instance_uid or not _is_before(now, then, today, day):
        words = f"The study of {day.isoformat()} is not known to be earlier: its date and time are not before."
        return Reason(NOT_EARLIER, words)
    age = (today - day).days
    if age > max_age_days:
        words = f"The study of {day.isoformat()} is {age} days older, more than {max_age_days}."
        return Reason(TOO_OLD, words, {"days": age, "most": max_age_days})
    return None


def _is_before(now: Dated, then: Dated, today: date, day: date) -> bool:
    if day != today:
        return day < today
    moment, before = seconds_of(now.study_time), seconds_of(then.study_time)
    return moment is not None and before is not None and before < moment


def why_another_patient(now: Iterable[Identified], then: Iterable[Dated]) -> Reason | None:
    """Return why an earlier study may not be of the same patient; None where it is.

    An empty value contradicts nothing, but for the Patient ID: without one nobody is the same patient. The words name
    the attribute, never its values.
    """
    here, there = list(now), list(then)
    if not _is_named(here) or not _is_named(there):
        return Reason(NO_PATIENT_ID, "Without a Patient ID it is not known which studies are the same patient's.")
    found = contradictions([*here, *there])
    if not found:
        return None
    day = day_words(there[0].study_date)
    code = ANOTHER_PATIENT if _WHO & set(found) else CONFLICTING
    stated = " and ".join(_ANOTHER[keyword] for keyword in found)
    words = f"Not compared with the study of {day}: {stated} is stated there."
    return Reason(code, words, {"attributes": ", ".join(found)})


def _is_named(those: Iterable[Identified]) -> bool:
    named = [one.patient_id.strip() for one in those]
    return bool(named) and all(named)
