"""Which earlier series a model is given: of each earlier study the best, and why others are not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from hilum.comparing import Comparison, compare
from hilum.config import Settings
from hilum.entries import ModelSettings
from hilum.planning import Circumstances, plan_study, read_cards
from study.entities import PlannedJob, StoredInstance
from study.errors import Reason
from study.headers import InstanceHeader
from study.identity import CONFLICTING
from study.priors import ANOTHER_PATIENT, INCOMPLETE, NO_ARCHIVE, NO_PRIOR, NONE_FOUND, EarlierStudy
from tests.support.series import axial_affine, ct_series

TODAY, SPRING, WINTER = "20240203", "20230511", "20210302"


def settings(**priors: Any) -> Settings:  # noqa: ANN401 - any key of [models.priors]
    entry = {"name": "lung_ct", "bundle": "builtin:lung_ct", "priors": priors}
    return Settings(models={"lung_ct": ModelSettings.model_validate(entry)})


def chest(study: str, date: str, slices: int = 20, **attributes: object) -> list[Dataset]:
    said = {"StudyDate": date, "BodyPartExamined": "CHEST"} | attributes
    return ct_series(np.zeros((slices, 8, 8)), axial_affine((2.0, 0.8, 0.8)), attributes=said, study_instance_uid=study)


def stored(images: Sequence[Dataset]) -> tuple[StoredInstance, ...]:
    now = datetime.now(UTC)
    return tuple(
        StoredInstance(
            InstanceHeader.of(image, ExplicitVRLittleEndian), f"digest {image.SOPInstanceUID}", "", "", 1, "X", now
        )
        for image in images
    )


def earlier(
    *groups: Sequence[Dataset], archived: dict[str, int] | None = None, unready: Reason | None = None
) -> EarlierStudy:
    first = groups[0][0]
    series = {str(group[0].SeriesInstanceUID): stored(group) for group in groups}
    return EarlierStudy(str(first.StudyInstanceUID), first.StudyDate, series, archived or {}, unready)


def compared(
    made: Settings, now: Sequence[Dataset], *studies: EarlierStudy, unfound: Sequence[Reason] = ()
) -> Comparison:
    headers = [each.header for each in stored(now)]
    return compare(made, read_cards(made)["lung_ct"], headers, studies, unfound)


def job(made: Settings, now: Sequence[Dataset], *studies: EarlierStudy) -> PlannedJob:
    series = {str(now[0].SeriesInstanceUID): stored(now)}
    (planned,) = plan_study(made, read_cards(made), series, Circumstances(earlier=studies)).jobs
    return planned


def test_the_latest_studies_are_compared_with_as_many_as_the_model_takes() -> None:
    spring, winter, old = (chest(f"1.{date}", date) for date in (SPRING, WINTER, "20200101"))
    made = compared(settings(count=2), chest("1.1", TODAY), earlier(old), earlier(spring), earlier(winter))
    assert [prior.study_date for prior in made.priors] == [SPRING, WINTER]
    assert [uid for uid, _ in made.priors[0].instances] == [str(image.SOPInstanceUID) for image in spring]
    assert made.reasons == ()


def test_the_next_older_study_takes_the_place_of_one_that_can_not_be_used() -> None:
    spring, winter = chest("1.2", SPRING), chest("1.3", WINTER)
    del spring[7:9]
    made = compared(settings(), chest("1.1", TODAY), earlier(spring), earlier(winter))
    assert [prior.study_date for prior in made.priors] == [WINTER]
    (reason,) = made.reasons
    assert reason.code == "MissingSlices"
    assert reason.words.startswith("Not compared with the study of 2023-05-11: ")


def test_a_contradiction_is_refused_and_told_and_another_patient_is_not_told() -> None:
    mixed = chest("1.2", SPRING, PatientBirthDate="19700102")
    elsewhere = chest("1.3", WINTER, IssuerOfPatientID="ELSEWHERE")
    made = compared(settings(), chest("1.1", TODAY, IssuerOfPatientID="HERE"), earlier(mixed), earlier(elsewhere))
    assert made.priors == ()
    assert [reason.code for reason in made.reasons] == [CONFLICTING, ANOTHER_PATIENT]
    words = "Not compared with the study of 2023-05-11: another birth date is stated there."
    assert made.told == [{"code": CONFLICTING, "words": words}]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"Modality": "MR"}, "no series there is the model's kind"),
        ({"SeriesDescription": "Topogram"}, "no series there is the model's kind"),
    ],
)
def test_the_models_own_rule_judges(attributes: dict[str, Any], words: str) -> None:
    entry = {
        "name": "lung_ct",
        "bundle": "builtin:lung_ct",
        "priors": {},
        "select": {"description_exclude": "topo"},
    }
    made = Settings(models={"lung_ct": ModelSettings.model_validate(entry)})
    comparison = compared(made, chest("1.1", TODAY), earlier(chest("1.2", SPRING, **attributes)))
    assert [words in reason.words for reason in comparison.reasons] == [True]


def test_what_the_archive_has_more_of_is_not_whole() -> None:
    spring = chest("1.2", SPRING)
    counts = {str(spring[0].SeriesInstanceUID): 24}
    made = compared(settings(), chest("1.1", TODAY), earlier(spring, archived=counts))
    (reason,) = made.reasons
    assert (reason.code, dict(reason.numbers)) == (INCOMPLETE, {"here": 20, "archived": 24})
    assert made.priors == ()
    assert compared(settings(), chest("1.1", TODAY), earlier(spring, archived={"1.9": 99})).priors


def test_what_still_arrives_is_left_alone() -> None:
    unready = Reason(INCOMPLETE, "The study of 2023-05-11 is not all here yet.")
    made = compared(settings(), chest("1.1", TODAY), earlier(chest("1.2", SPRING), unready=unready))
    assert (made.priors, made.reasons) == ((), (unready,))


def test_of_several_series_the_one_that_was_made_alike_goes_first() -> None:
    alike = chest("1.2", SPRING, ConvolutionKernel="B31f", SeriesNumber=3)
    sharp = chest("1.2", SPRING, ConvolutionKernel="B70f", SeriesNumber=9)
    now = chest("1.1", TODAY, ConvolutionKernel="B31f")
    (prior,) = compared(settings(), now, earlier(alike, sharp)).priors
    assert prior.series_instance_uid == str(alike[0].SeriesInstanceUID)
    (prior,) = compared(settings(), chest("1.1", TODAY, ConvolutionKernel="B70f"), earlier(alike, sharp)).priors
    assert prior.series_instance_uid == str(sharp[0].SeriesInstanceUID)


def test_that_nothing_was_found_is_said() -> None:
    assert [reason.code for reason in compared(settings(), chest("1.1", TODAY)).reasons] == [NONE_FOUND]
    unfound = Reason(NO_ARCHIVE, "No archive is named.")
    assert compared(settings(), chest("1.1", TODAY), unfound=[unfound]).reasons == (unfound,)
    made = compared(settings(count=2), chest("1.1", TODAY), earlier(chest("1.2", SPRING)), unfound=[unfound])
    assert (len(made.priors), made.reasons) == (1, ())


def test_the_key_of_a_job_holds_what_it_is_compared_with() -> None:
    now, spring = chest("1.1", TODAY), chest("1.2", SPRING)
    alone, compares = job(settings(), now), job(settings(), now, earlier(spring))
    assert "priors" not in alone.parameters
    assert alone.parameters_digest != compares.parameters_digest
    assert alone.instances_digest == compares.instances_digest
    assert compares.parameters_digest == job(settings(), now, earlier(spring[::-1])).parameters_digest
    assert compares.parameters_digest != job(settings(), now, earlier(spring[:-1])).parameters_digest
    (prior,) = compares.parameters["priors"]
    assert (prior["study"], prior["date"]) == ("1.2", SPRING)
    assert len(compares.priors[0].instances) == 20


def test_a_job_without_earlier_studies_keeps_its_key() -> None:
    plain = Settings(models={"lung_ct": ModelSettings(name="lung_ct", bundle="builtin:lung_ct")})
    now = chest("1.1", TODAY)
    assert job(plain, now).parameters_digest == job(plain, now, earlier(chest("1.2", SPRING))).parameters_digest
    assert job(plain, now).priors == ()


def test_a_model_that_needs_one_refuses_a_study_without() -> None:
    mixed = chest("1.2", SPRING, PatientSex="F")
    refusal = job(settings(required=True), chest("1.1", TODAY), earlier(mixed)).refusal
    assert refusal is not None
    assert refusal.code == NO_PRIOR
    assert "another sex is stated there" in refusal.words
    assert job(settings(required=True), chest("1.1", TODAY), earlier(chest("1.2", SPRING))).refusal is None
