"""One study, one patient: what contradicts and what is only written differently."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from study.headers import InstanceHeader
from study.identity import identity_conflicts


def conflicts(*patients: Mapping[str, str]) -> list[str]:
    headers = [
        InstanceHeader(
            "1.1",
            "1.2",
            "1.3",
            "1.4",
            patient_name=patient.get("patient_name", ""),
            patient_id=patient.get("patient_id", ""),
            issuer_of_patient_id=patient.get("issuer_of_patient_id", ""),
            patient_birth_date=patient.get("patient_birth_date", ""),
            patient_sex=patient.get("patient_sex", ""),
        )
        for patient in patients
    ]
    return [str(reason.numbers["attribute"]) for reason in identity_conflicts(headers)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Doe^Jane", "DOE^JANE"),
        ("Doe^Jane", "Doe^Jane^^^"),
        ("Doe^Jane", "Doe^Jane ^ "),
        ("Doe^Jane", "Doe ^ Jane"),
        ("Doe^Jane Mary", "Doe^Jane  Mary"),
        ("Doe^Jane", "Doe^Jane=="),
        ("Yamada^Tarou=山田^太郎", "Yamada^Tarou"),
        ("=山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("Müller^Jörg", "Mu\u0308ller^Jo\u0308rg"),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ", "ヤマダ^タロウ"),
        ("Doe^Jane", ""),
        ("Doe^Jane", "^^"),
    ],
)
def test_one_name_written_in_two_ways(one: str, other: str) -> None:
    assert conflicts({"patient_name": one}, {"patient_name": other}) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Doe^Jane", "Doe^John"),
        ("Doe^Jane", "Jane^Doe"),
        ("Doe^Jane", "Doe^^Jane"),
        ("Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^花子"),
        ("Müller^Jörg", "Muller^Jorg"),
    ],
)
def test_two_names(one: str, other: str) -> None:
    assert conflicts({"patient_name": one}, {"patient_name": other}) == ["PatientName"]


def test_other_attributes_are_compared_as_they_are() -> None:
    one = {"patient_id": "7", "issuer_of_patient_id": "A", "patient_birth_date": "19700101", "patient_sex": "F"}
    two = {"patient_id": "07", "issuer_of_patient_id": "B", "patient_birth_date": "19700102", "patient_sex": "M"}
    assert conflicts(one, two) == ["PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"]
    assert conflicts(one, {}, {"patient_id": "7 "}) == []


def test_an_identifier_is_not_split_like_a_name() -> None:
    assert conflicts({"patient_id": "A=1"}, {"patient_id": "A"}) == ["PatientID"]


def test_reason_holds_the_count_and_no_patient_data() -> None:
    headers = [
        InstanceHeader("1.1", "1.2", "1.3", "1.4", patient_id=identifier) for identifier in ("P1", "P2", "P3", "P3")
    ]
    (reason,) = identity_conflicts(headers)
    assert reason.code == "ConflictingIdentity"
    assert dict(reason.numbers) == {"attribute": "PatientID", "values": 3}
    assert "P1" not in reason.words
    assert "3 different values of PatientID" in reason.words


def test_no_headers_no_conflict() -> None:
    assert identity_conflicts([]) == ()
