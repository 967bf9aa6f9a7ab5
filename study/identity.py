"""Does one study belong to one patient? Headers in, the contradiction out."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Protocol

from study.errors import MissingIdentity, Reason
from study.headers import InstanceHeader

CONFLICTING = "ConflictingIdentity"
"""Code of the refusal of a study that may mix two patients: nothing may be written in the name of either."""

PIXELS_CHANGED = "PixelsChanged"
"""Code of the refusal of a series of which an image came again with other pixels: it may be another patient's."""

_ATTRIBUTES = {
    "PatientID": "patient_id",
    "IssuerOfPatientID": "issuer_of_patient_id",
    "PatientName": "patient_name",
    "PatientBirthDate": "patient_birth_date",
    "PatientSex": "patient_sex",
}


class Identified(Protocol):
    """What says whose it is: an image, or an archive's answer about a study; "" where it does not."""

    @property
    def patient_id(self) -> str:
        """Return the Patient ID."""

    @property
    def issuer_of_patient_id(self) -> str:
        """Return the Issuer of Patient ID."""

    @property
    def patient_name(self) -> str:
        """Return the Patient's Name."""

    @property
    def patient_birth_date(self) -> str:
        """Return the Patient's Birth Date."""

    @property
    def patient_sex(self) -> str:
        """Return the Patient's Sex."""


def identity_conflicts(headers: Iterable[InstanceHeader]) -> tuple[Reason, ...]:
    """Return a reason for each identifying attribute that has two different values in one study.

    An empty value contradicts nothing, nor does a name's absent ideographic or phonetic group. Names are compared
    without case, character width, trailing delimiters and spaces, which differ between systems (PS3.5 6.2.1). The
    values themselves stay out of the words: they end in logs.
    """
    return tuple(
        Reason(
            CONFLICTING,
            f"The study holds {count} different values of {keyword}; it may mix two patients. Correct it at the "
            "archive and send it again.",
            {"attribute": keyword, "values": count},
        )
        for keyword, count in contradictions(headers).items()
    )


def unidentified(headers: Iterable[InstanceHeader]) -> tuple[Reason, ...]:
    """Return a reason where images do not say whose they are: a result could end up with the wrong patient."""
    nameless = sum(not header.patient_id.strip() for header in headers)
    if not nameless:
        return ()
    words = (
        f"{nameless} image{'s' if nameless != 1 else ''} of the series have no Patient ID, so a result could end up "
        "with the wrong patient; mend it at the modality and send the series again, or, where the site has such "
        "images, set results.allow_empty_patient_id = true."
    )
    return (Reason(MissingIdentity.code, words, {"images": nameless}),)


def contradictions(those: Iterable[Identified]) -> dict[str, int]:
    """Return how many different values there are of each identifying attribute that has more than one, by keyword.

    What counts as different is what `identity_conflicts` says.
    """
    seen: dict[str, list[set[str]]] = {keyword: [] for keyword in _ATTRIBUTES}
    for one in those:
        for keyword, name in _ATTRIBUTES.items():
            _note(seen[keyword], _comparable(keyword, getattr(one, name)))
    counts = {keyword: max((len(values) for values in groups), default=0) for keyword, groups in seen.items()}
    return {keyword: count for keyword, count in counts.items() if count > 1}


def _note(seen: list[set[str]], groups: list[str]) -> None:
    seen.extend(set() for _ in range(len(groups) - len(seen)))
    for values, group in zip(seen, groups, strict=False):
        if group:
            values.add(group)


def _comparable(keyword: str, value: str) -> list[str]:
    if keyword != "PatientName":
        return [value.strip()]
    return [_comparable_group(group) for group in value.split("=")]


def _comparable_group(group: str) -> str:
    folded = unicodedata.normalize("NFKC", group).casefold()
    return "^".join(" ".join(component.split()) for component in folded.split("^")).rstrip("^")
