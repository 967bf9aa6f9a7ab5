"""Whose an earlier study is, and whether it is earlier: the rules alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from study.headers import InstanceHeader
from study.identity import CONFLICTING
from study.priors import (
    ANOTHER_PATIENT,
    NO_DATE,
    NO_PATIENT_ID,
    NOT_EARLIER,
    TOO_OLD,
    day_of,
    seconds_of,
    why_another_patient,
    why_not_earlier,
)

NOW = InstanceHeader(
    "1.2.840.10008.5.1.4.1.1.2",
    "1.1",
    "1",
    "1.3",
    patient_id="P1",
    issuer_of_patient_id="SITE",
    patient_name="Phantom^Paula",
    patient_birth_date="19700101",
    patient_sex="F",
    study_date="20240203",
    study_time="101112.5",
)


def then(**values: Any) -> InstanceHeader:  # noqa: ANN401 - any field of a header
    of_then: dict[str, Any] = {"study_instance_uid": "2", "study_date": "20230511", "study_time": ""}
    return replace(NOW, **(of_then | values))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"issuer_of_patient_id": ""},
        {"patient_name": "PHANTOM^PAULA^^", "patient_birth_date": "", "patient_sex": ""},
        {"patient_name": "Ｐｈａｎｔｏｍ^Paula"},
        {"patient_id": " P1 "},
    ],
)
def test_what_is_written_otherwise_or_not_at_all_is_the_same_patient(values: dict[str, str]) -> None:
    assert why_another_patient([NOW], [then(**values)]) is None


@pytest.mark.parametrize(
    ("values", "code", "words"),
    [
        ({"patient_birth_date": "19700102"}, CONFLICTING, "another birth date is stated there"),
        ({"patient_sex": "M"}, CONFLICTING, "another sex is stated there"),
        ({"patient_name": "Phantom^Petra"}, CONFLICTING, "another name is stated there"),
        ({"issuer_of_patient_id": "ELSEWHERE"}, ANOTHER_PATIENT, "another issuer of the Patient ID"),
        ({"patient_id": "p1"}, ANOTHER_PATIENT, "another Patient ID"),
        ({"patient_id": ""}, NO_PATIENT_ID, "Without a Patient ID"),
    ],
)
def test_a_contradiction_is_a_refusal_in_words_that_name_no_value(
    values: dict[str, str], code: str, words: str
) -> None:
    reason = why_another_patient([NOW], [then(**values)])
    assert reason is not None
    assert reason.code == code
    assert words in reason.words
    assert not [value for value in values.values() if value and value in reason.words]


def test_one_image_of_another_patient_refuses_the_whole_study() -> None:
    reason = why_another_patient([NOW], [then(), then(patient_birth_date="19990909"), then()])
    assert reason is not None
    assert reason.words == "Not compared with the study of 2023-05-11: another birth date is stated there."


def test_the_same_name_without_an_id_is_nobody() -> None:
    nameless = replace(NOW, patient_id="")
    assert (reason := why_another_patient([nameless], [then(patient_id="")])) is not None
    assert reason.code == NO_PATIENT_ID


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"study_date": "20240202"}, None),
        ({"study_date": "2024.02.02"}, None),
        ({"study_date": "20240203", "study_time": "101112.4"}, None),
        ({"study_date": "20240203", "study_time": "101112.5"}, NOT_EARLIER),
        ({"study_date": "20240203", "study_time": "1200"}, NOT_EARLIER),
        ({"study_date": "20240203"}, NOT_EARLIER),
        ({"study_date": "20240204"}, NOT_EARLIER),
        ({"study_date": ""}, NO_DATE),
        ({"study_date": "20230231"}, NO_DATE),
        ({"study_date": "20140101"}, TOO_OLD),
        ({"study_date": "20230511", "study_instance_uid": "1"}, NOT_EARLIER),
    ],
)
def test_earlier_is_what_an_earlier_date_or_time_says(values: dict[str, str], code: str | None) -> None:
    reason = why_not_earlier(NOW, then(**values), 1825)
    assert (None if reason is None else reason.code) == code


def test_without_a_date_of_its_own_a_study_has_no_earlier_one() -> None:
    reason = why_not_earlier(replace(NOW, study_date=""), then(), 1825)
    assert reason is not None
    assert reason.code == NO_DATE
    assert reason.words.startswith("The study itself says no date")


@pytest.mark.parametrize("text", ["", "2023", "202305110", "2023-5-11", "20231301", "٢٠٢٣٠٥١١", "--------"])
def test_what_is_no_date_is_none(text: str) -> None:
    assert day_of(text) is None


def test_dates_and_times_as_they_are_written() -> None:
    assert day_of("2023.05.11") == date(2023, 5, 11)
    assert [seconds_of(text) for text in ("10", "1011", "101112.25", "10:11:12")] == [36000, 36660, 36672.25, 36672]
    assert [seconds_of(text) for text in ("", "101", "250000", "1a", "10.11.12")] == [None] * 5
