"""Does one study belong to one patient? Headers in, the contradiction out."""

from __future__ import annotations

from collections.abc import Iterable

from study.errors import Reason
from study.headers import InstanceHeader

_ATTRIBUTES = {
    "PatientID": "patient_id",
    "IssuerOfPatientID": "issuer_of_patient_id",
    "PatientName": "patient_name",
    "PatientBirthDate": "patient_birth_date",
    "PatientSex": "patient_sex",
}


def identity_conflicts(headers: Iterable[InstanceHeader]) -> tuple[Reason, ...]:
    """Return a reason for each identifying attribute that has two different values in one study.

    An empty value contradicts nothing. Names are compared without case, trailing delimiters and spaces, which differ
    between systems (PS3.5 6.2.1). The values themselves stay out of the words: they end in logs.
    """
    seen: dict[str, set[str]] = {keyword: set() for keyword in _ATTRIBUTES}
    for header in headers:
        for keyword, name in _ATTRIBUTES.items():
            value = _comparable(keyword, getattr(header, name))
            if value:
                seen[keyword].add(value)
    return tuple(
        Reason(
            "ConflictingIdentity",
            f"The study holds {len(values)} different values of {keyword}; it may mix two patients.",
            {"attribute": keyword, "values": len(values)},
        )
        for keyword, values in seen.items()
        if len(values) > 1
    )


def _comparable(keyword: str, value: str) -> str:
    if keyword != "PatientName":
        return value.strip()
    groups = [group.rstrip("^ ") for group in value.upper().split("=")]
    return "=".join(" ".join(group.split()) for group in groups).rstrip("=")
