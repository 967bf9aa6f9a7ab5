"""Which studies and series that an archive names are looked into: by what little it says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hilum.archives.candidates import candidates, next_ones, question_for, series_to_fetch
from hilum.config import Settings
from hilum.entries import ModelSettings
from hilum.planning import read_cards
from inference.catalog import ModelCard
from study.headers import InstanceHeader
from study.holdings import ArchivedSeries, ArchivedStudy
from study.identity import CONFLICTING
from study.priors import ANOTHER_PATIENT, NO_DATE
from study.searches import FoundStudy, PriorOutcome

NOW = InstanceHeader(
    "1.2.840.10008.5.1.4.1.1.2",
    "1.1",
    "1",
    "1.3",
    patient_id="P1",
    issuer_of_patient_id="SITE",
    patient_birth_date="19700101",
    study_date="20240203",
)
THEN = ArchivedStudy("2", patient_id="P1", study_date="20230511", modalities=("CT", "SR"))


def card(*, select: dict[str, Any] | None = None, **priors: Any) -> ModelCard:  # noqa: ANN401 - any key of priors
    entry = {"name": "lung_ct", "bundle": "builtin:lung_ct", "priors": priors, "select": select or {}}
    return read_cards(Settings(models={"lung_ct": ModelSettings.model_validate(entry)}))["lung_ct"]


def test_an_archive_is_asked_by_id_and_issuer_within_the_years_that_count() -> None:
    asked = question_for([replace(NOW, issuer_of_patient_id=""), NOW], card(max_age_days=365))
    assert asked is not None
    assert (asked.patient_id, asked.issuer_of_patient_id) == ("P1", "SITE")
    assert (asked.from_date, asked.to_date) == ("20230203", "20240203")
    oldest = question_for([replace(NOW, study_date="00010203")], card(max_age_days=36500))
    assert oldest is not None
    assert oldest.from_date == "00010101"


@pytest.mark.parametrize("values", [{"patient_id": " "}, {"study_date": ""}, {"study_date": "2024"}])
def test_without_an_id_or_a_date_nobody_is_asked(values: dict[str, Any]) -> None:
    assert question_for([replace(NOW, **values)], card()) is None


def test_the_latest_come_first_and_what_is_no_earlier_study_is_left_out() -> None:
    older, same = replace(THEN, study_instance_uid="3", study_date="20210302"), replace(THEN, study_instance_uid="1")
    late, old = (replace(THEN, study_instance_uid=f"4.{day}", study_date=day) for day in ("20240204", "20120101"))
    found = candidates([NOW], [older, same, late, old, THEN], card())
    assert [(each.study_instance_uid, each.outcome) for each in found] == [
        ("2", PriorOutcome.FOUND),
        ("3", PriorOutcome.FOUND),
    ]


@pytest.mark.parametrize(
    ("values", "outcome", "code"),
    [
        ({"patient_birth_date": "19700102"}, PriorOutcome.REFUSED, CONFLICTING),
        ({"issuer_of_patient_id": "ELSEWHERE"}, PriorOutcome.REFUSED, ANOTHER_PATIENT),
        ({"study_date": ""}, PriorOutcome.NOT_WANTED, NO_DATE),
        ({"modalities": ("MR",)}, PriorOutcome.NOT_WANTED, None),
        ({"modalities": ()}, PriorOutcome.FOUND, None),
        ({"modalities": ("ct",)}, PriorOutcome.FOUND, None),
    ],
)
def test_what_an_answer_says_decides_before_anything_is_fetched(
    values: dict[str, Any], outcome: PriorOutcome, code: str | None
) -> None:
    (found,) = candidates([NOW], [replace(THEN, **values)], card())
    assert (found.outcome, found.reason.code if found.reason else None) == (outcome, code)


def test_very_many_studies_are_cut_to_the_latest() -> None:
    many = [
        replace(THEN, study_instance_uid=f"9.{number}", study_date=f"2022{number % 12 + 1:02d}01")
        for number in range(500)
    ]
    found = candidates([NOW], many, card())
    assert len(found) == 24
    assert {each.study_date for each in found} == {"20221201"}


def test_of_a_study_the_few_largest_series_are_fetched_that_may_be_of_use() -> None:
    series = [
        ArchivedSeries("1", "CT", series_description="Thorax 5.0", instances=60),
        ArchivedSeries("2", "CT", series_description="Topogram", instances=40),
        ArchivedSeries("3", "CT", series_description="Thorax 1.0", instances=300),
        ArchivedSeries("4", "SR", instances=1),
        ArchivedSeries("5", "CT", series_description="Bolus", instances=8),
        ArchivedSeries("6", "CT", series_description="Thorax 2.0", instances=150),
        ArchivedSeries("7", "CT", series_description="Enhanced", instances=1),
        ArchivedSeries("8", "CT", body_part_examined="HEAD", instances=500),
    ]
    rules = {"description_exclude": "topo", "slices": [20, ""], "body_part": "CHEST"}
    assert [each.series_instance_uid for each in series_to_fetch(series, card(select=rules))] == ["3", "6", "1"]
    assert [each.series_instance_uid for each in series_to_fetch(series[4:], card(select=rules))] == ["6", "7"]
    of_heads = card(select=rules, body_part="HEAD")
    assert [each.series_instance_uid for each in series_to_fetch(series[7:], of_heads)] == ["8"]
    uncounted = [replace(each, instances=None) for each in series]
    assert len(series_to_fetch(uncounted, card(select=rules))) == 3


def test_no_more_are_gone_on_with_than_are_lacking() -> None:
    def found(*outcomes: PriorOutcome) -> list[FoundStudy]:
        return [FoundStudy(str(number), "20230511", outcome=outcome) for number, outcome in enumerate(outcomes)]

    here, new, refused, fetching = PriorOutcome.HERE, PriorOutcome.FOUND, PriorOutcome.REFUSED, PriorOutcome.FETCHING
    assert [each.study_instance_uid for each in next_ones(found(new, new, new), 2)] == ["0", "1"]
    assert [each.study_instance_uid for each in next_ones(found(here, refused, fetching, new), 2)] == ["2"]
    assert next_ones(found(here, new), 1) == []
    assert next_ones(found(refused), 1) == []
