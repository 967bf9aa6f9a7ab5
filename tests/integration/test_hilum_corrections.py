"""Studies that were corrected and sent again: one current analysis, under new UIDs, that names the one before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID

from db.images.index import instances_of_job
from db.work.results import predecessors_of
from hilum.problems import find_problems
from study.headers import InstanceHeader
from study.states import JobState, StudyState
from tests.support.databases import DIALECTS
from tests.support.indexing import CONFIG, Intake, indexing
from tests.support.series import axial_affine, ct_series

STUDY = "2.25.8300"


@pytest.fixture(params=DIALECTS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Intake]:
    with indexing(tmp_path, request.param) as intake:
        yield intake


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Intake]:
    with indexing(tmp_path) as intake:
        yield intake


def chest(**attributes: object) -> list[Dataset]:
    images = ct_series(
        np.full((20, 8, 8), -500),
        axial_affine((2.0, 0.8, 0.8)),
        study_instance_uid=STUDY,
        series_instance_uid=f"{STUDY}.1",
        attributes=attributes,
    )
    for number, image in enumerate(images):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(f"{STUDY}.2.{number}")
        image.FrameOfReferenceUID = f"{STUDY}.3"
    return images


def numbered_anew() -> list[Dataset]:
    images = chest()
    for image in images:
        image.InstanceNumber = 100 - image.InstanceNumber
    return images


def headers(node: Intake) -> list[InstanceHeader]:
    """Return those of what the job that counts reads."""
    with node.database.reading() as uow:
        return [each.header for each in instances_of_job(uow, node.current(STUDY).id)]


def predecessor(node: Intake) -> list[str]:
    """Return which reports that of the job that counts takes the place of."""
    with node.database.reading() as uow:
        return [each.sop_instance_uid for each in predecessors_of(uow, node.current(STUDY).id)]


def reports(node: Intake, job: int) -> list[str]:
    return [each.sop_instance_uid for of, each in node.record(STUDY).results if of == job and each.form == "sr"]


def demand_new_analysis(node: Intake, first: int) -> None:
    """Make sure that one analysis counts, that it is a new one, and names the report of the first."""
    job = node.current(STUDY)
    assert (job.state, job.id > first, job.revision) == (JobState.QUEUED, True, 2)
    assert predecessor(node) == reports(node, first)
    assert find_problems(node.settings, node.database) == []


CORRECTIONS = {
    "name": chest(PatientName="Other^Name"),
    "birth date": chest(PatientBirthDate="19710203"),
    "accession number": chest(AccessionNumber="B456"),
    "series number": chest(SeriesNumber=77),
    "instance numbers": numbered_anew(),
    "patient ID": chest(PatientID="P2"),
}


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_a_study_that_comes_again_corrected_is_analysed_anew_and_names_the_report_before(
    quick: Intake, correction: str
) -> None:
    quick.take(chest())
    first = quick.analyse(STUDY)
    quick.take(CORRECTIONS[correction])
    demand_new_analysis(quick, first.id)
    quick.analyse(STUDY)
    assert quick.record(STUDY).summary.state is StudyState.DELIVERED
    assert [job.current for job in quick.record(STUDY).jobs] == [False, True]


def test_two_patients_in_one_study_are_refused_until_all_images_are_of_one(node: Intake) -> None:
    node.take(chest())
    first = node.analyse(STUDY)
    corrected = chest(PatientID="P2", PatientName="Other^Name")
    node.take(corrected[:7])
    job = node.current(STUDY)
    assert (job.state, job.reason.code if job.reason else "") == (JobState.REFUSED, "ConflictingIdentity")
    assert node.record(STUDY).summary.state is StudyState.REFUSED
    node.take(corrected[7:])
    assert {(each.patient_id, each.patient_name) for each in headers(node)} == {("P2", "Other^Name")}
    assert node.record(STUDY).summary.patient_id == "P2"
    assert predecessor(node) == reports(node, first.id)
    assert node.current(STUDY).state is JobState.QUEUED
    assert sum(job.current for job in node.record(STUDY).jobs) == 1


def test_a_correction_that_is_taken_back_lets_the_first_results_count_again_and_sends_nothing_twice(
    quick: Intake,
) -> None:
    quick.take(chest())
    first = quick.analyse(STUDY)
    quick.take(chest(AccessionNumber="B456"))
    quick.take(chest())
    assert (quick.current(STUDY).id, quick.current(STUDY).state) == (first.id, JobState.DONE)
    assert quick.record(STUDY).summary.state is StudyState.DELIVERED


@pytest.mark.parametrize("empty", ["", None, "  "])
def test_images_without_a_patient_id_are_refused_before_a_model_runs(quick: Intake, empty: str | None) -> None:
    quick.take(chest(PatientID=empty))
    job = quick.current(STUDY)
    assert (job.state, job.reason.code if job.reason else "") == (JobState.REFUSED, "MissingIdentity")
    assert job.reason is not None
    assert "results.allow_empty_patient_id = true" in job.reason.words
    quick.take(chest())
    assert quick.current(STUDY).state is JobState.QUEUED


def test_a_site_that_has_such_images_may_have_them_analysed(tmp_path: Path) -> None:
    with indexing(tmp_path, config=f"{CONFIG}\n[results]\nallow_empty_patient_id = true\n") as node:
        node.take(chest(PatientID=""))
        assert node.current(STUDY).state is JobState.QUEUED
