"""Key Objects that reject images: what they name is read by no model, whatever came first, until a person says so."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.uid import UID
from typer.testing import CliRunner

from db.delivery.outbox import Outgoing
from db.images import index
from db.work import jobs
from hilum.cli import app
from hilum.config import load
from hilum.problems import find_problems, remedy
from hilum.requesting import analyse
from study.entities import Event
from study.rejections import RejectionTitle
from study.states import DeliveryState, JobState, StudyState
from tests.support.databases import DIALECTS, results
from tests.support.indexing import CONFIG, Intake, indexing
from tests.support.network import free_port
from tests.support.peers import DCMTK_ENVIRONMENT, program
from tests.support.reception import receiving
from tests.support.series import axial_affine, ct_series

STUDY = "2.25.8200"
OTHER = "2.25.8201"
SLICES = 20
QUALITY, SAFETY, WORKLIST, RETENTION = (title for title in RejectionTitle if title)


@pytest.fixture(params=DIALECTS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Intake]:
    with indexing(tmp_path, request.param) as intake:
        yield intake


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Intake]:
    with indexing(tmp_path) as intake:
        yield intake


def chest(study: str = STUDY, slices: int = SLICES, **attributes: object) -> list[Dataset]:
    images = ct_series(
        np.full((slices, 8, 8), -500),
        axial_affine((2.0, 0.8, 0.8)),
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        attributes=attributes,
    )
    for number, image in enumerate(images):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(f"{study}.2.{number}")
    return images


def key_object(
    title: RejectionTitle, rejected: Sequence[Dataset], *, number: int = 0, study: str | None = None
) -> Dataset:
    """Return a Key Object as an archive writes it; in another study than the images where one is given."""
    uid = f"{STUDY}.9.{number}"
    made: Dataset = KeyObjectSelectionDocument(
        evidence=rejected,
        content=KeyObjectSelection(CodedConcept(title.value, "DCM", title.words), rejected),
        series_instance_uid=f"{uid}.1",
        series_number=900,
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer="Archive",
        series_description="Rejected",
    )
    if study is not None:
        made.StudyInstanceUID = study
    return made


def told(node: Intake, study: str = STUDY, kind: str = "images_rejected") -> list[Event]:
    return [event for event in node.record(study).events if event.kind == kind]


def read(node: Intake, study: str = STUDY) -> set[str]:
    """Return what the job that counts reads."""
    with node.database.reading() as uow:
        return {each.header.sop_instance_uid for each in index.instances_of_job(uow, node.current(study).id)}


@pytest.mark.parametrize("title", [QUALITY, SAFETY, WORKLIST])
def test_a_study_is_analysed_anew_without_what_was_rejected(quick: Intake, title: RejectionTitle) -> None:
    images = chest()
    quick.take(images)
    first = quick.analyse(STUDY)
    quick.take([key_object(title, images[:2])])
    second = quick.current(STUDY)
    assert (second.state, second.id > first.id) == (JobState.QUEUED, True)
    assert read(quick) == {image.SOPInstanceUID for image in images[2:]}
    assert second.parameters["notes"][-1] == (
        f"2 images of the series were rejected ({title.words}); they were left out."
    )
    (event,) = told(quick)
    assert event.numbers | {"key_object": ""} == {
        "key_object": "", "title": title.value, "named": 2, "here": 2, "excluded": 2,
    }  # fmt: skip
    (rejection,) = quick.record(STUDY).rejections
    assert (rejection.key_object, rejection.title, rejection.excluded) == (f"{STUDY}.9.0", title, 2)
    assert set(rejection.sop_instance_uids) == {image.SOPInstanceUID for image in images[:2]}
    assert len(quick.record(STUDY).jobs) == 2
    quick.analyse(STUDY)
    assert find_problems(quick.settings, quick.database) == []  # the new report names the old one


def test_where_too_little_is_left_the_study_is_refused_and_outdated_results_need_a_person(node: Intake) -> None:
    images = chest()
    node.take(images)
    node.analyse(STUDY)
    node.take([key_object(SAFETY, images)])
    job = node.current(STUDY)
    assert (job.state, job.reason.code if job.reason else "") == (JobState.REFUSED, "ImagesRejected")
    assert job.reason is not None
    assert job.reason.words.startswith("20 images of the series were rejected (Rejected for Patient Safety Reasons)")
    assert node.record(STUDY).summary.state is StudyState.REFUSED
    (problem,) = find_problems(node.settings, node.database)
    assert (problem.kind, problem.subject) == ("outdated", STUDY)
    report = next(each.sop_instance_uid for _, each in node.record(STUDY).results if each.form == "sr")
    assert remedy(problem).startswith(f"hilum withdraw {report} --reason")


def test_a_gap_that_a_rejection_leaves_is_refused_with_both_reasons(quick: Intake) -> None:
    images = chest()
    quick.take(images)
    quick.take([key_object(QUALITY, images[8:11])])
    reason = quick.current(STUDY).reason
    assert reason is not None
    assert (reason.code, reason.numbers["missing"], reason.numbers["rejected"]) == ("MissingSlices", 3, 3)
    assert "3 images of the series were rejected (Rejected for Quality Reasons)" in reason.words


def test_an_alarm_beside_a_rejection_is_an_alarm(quick: Intake) -> None:
    images = chest()
    quick.take([*images, key_object(QUALITY, images[:2])])
    images[9].PixelData = bytes(len(images[9].PixelData))
    quick.take(images[9:10])
    assert [each.kind.value for each in find_problems(quick.settings, quick.database)] == ["alarm"]


def test_results_that_may_stay_where_they_are_need_nobody_once_they_are_discarded(quick: Intake) -> None:
    images = chest()
    quick.take(images)
    quick.analyse(STUDY)
    quick.take([key_object(SAFETY, images)])
    config = str(quick.settings.data_dir.parent / "config.toml")
    done = CliRunner().invoke(app, ["discard", STUDY, "--yes", "--config", config])
    assert (done.exit_code, "2 result object(s) of images that were rejected since" in done.output) == (0, True)
    assert find_problems(quick.settings, quick.database) == []


def test_what_may_only_be_deleted_stays_analysed_and_is_on_record(quick: Intake) -> None:
    images = chest()
    quick.take(images)
    quick.analyse(STUDY)
    quick.take([key_object(RETENTION, images)])
    assert (quick.current(STUDY).state, len(quick.record(STUDY).jobs)) == (JobState.DONE, 1)
    (rejection,) = quick.record(STUDY).rejections
    assert (rejection.title, rejection.excluded, len(rejection.sop_instance_uids)) == (RETENTION, 0, SLICES)
    assert told(quick)[0].words.endswith("for this study nothing follows.")
    assert find_problems(quick.settings, quick.database) == []


def test_a_rejection_holds_for_images_that_come_after_it_and_for_other_bytes_of_them(quick: Intake) -> None:
    images = chest()
    quick.take([key_object(WORKLIST, images[:2])])
    quick.take(images)
    assert read(quick) == {image.SOPInstanceUID for image in images[2:]}
    assert [event.numbers for event in told(quick)][1:] == [{"excluded": 2}]
    quick.take(chest(PatientName="Corrected^Name")[:2])
    assert len(quick.record(STUDY).jobs) == 1


def test_what_waits_is_not_begun_and_what_is_owed_not_sent_before_the_study_is_looked_at_again(quick: Intake) -> None:
    images = chest()
    quick.take(images)
    quick.analyse(STUDY, delivered=False)
    with quick.database.writing() as uow:  # at the moment when the Key Object is indexed
        path = quick.settings.data_dir / "ko.dcm"
        key_object(SAFETY, images[:1]).save_as(path, enforce_file_format=True)
        index.add_instances(uow, [quick.store.read_incoming(path)])
        uow.commit()
    assert {each.state for each in quick.record(STUDY).deliveries} == {DeliveryState.KEPT_ASIDE}
    assert not any(job.current for job in quick.record(STUDY).jobs)


def test_a_person_may_want_rejected_images_analysed_and_a_later_key_object_rejects_them_again(node: Intake) -> None:
    images = chest()
    node.take(images)
    first = node.analyse(STUDY)
    note = key_object(QUALITY, images)
    node.take([note])
    said = list(analyse(node.settings, node.database, STUDY))
    assert said[0] == "20 image(s) were rejected, and are left out; --with-rejected analyses them all the same"
    said = list(analyse(node.settings, node.database, STUDY, with_rejected=True))
    assert said[0] == "20 image(s) that were rejected are analysed all the same"
    node.settle()
    assert (node.current(STUDY).id, node.current(STUDY).state) == (first.id, JobState.DONE)
    assert find_problems(node.settings, node.database) == []
    (rejection,) = node.record(STUDY).rejections
    assert (rejection.excluded, rejection.lifted_at is not None) == (0, True)
    node.take([note])  # the very same, then in other bytes: nothing new
    note.SeriesDescription = "Corrected"
    node.take([note])
    assert node.current(STUDY).state is JobState.DONE
    node.take([key_object(QUALITY, images, number=1)])
    assert node.current(STUDY).state is JobState.REFUSED


def test_rejections_and_what_a_person_said_of_them_survive_the_loss_of_the_database(quick: Intake) -> None:
    images = chest()
    quick.take(images)
    quick.take([key_object(QUALITY, images[:1])])
    list(analyse(quick.settings, quick.database, STUDY, with_rejected=True))
    quick.settle()
    quick.take([key_object(SAFETY, images[2:], number=1)])
    before = quick.record(STUDY).rejections
    quick.rebuild()
    assert [(each.title, each.excluded, each.lifted_at) for each in quick.record(STUDY).rejections] == [
        (each.title, each.excluded, each.lifted_at) for each in before
    ]
    assert quick.current(STUDY).state is JobState.REFUSED


def test_images_of_another_study_are_rejected_by_the_evidence(quick: Intake) -> None:
    images = chest(OTHER)
    quick.take(images)
    quick.take([*chest(), key_object(WORKLIST, images[:2], study=STUDY)])
    assert read(quick, OTHER) == {image.SOPInstanceUID for image in images[2:]}
    assert len(read(quick)) == SLICES
    assert told(quick, OTHER)[0].numbers["excluded"] == 2
    assert told(quick)[0].words.endswith("for this study nothing follows.")
    assert quick.record(OTHER).rejections[0].excluded == 2


def test_a_rejection_of_our_results_rejects_no_image_and_settles_that_they_are_outdated(quick: Intake) -> None:
    images = chest()
    quick.take(images)
    quick.analyse(STUDY)
    ours = []
    for _, each in quick.record(STUDY).results:
        result = chest()[0]
        result.SOPInstanceUID, result.SOPClassUID = UID(each.sop_instance_uid), UID(each.sop_class_uid)
        ours.append(result)
    quick.take([key_object(QUALITY, ours)])
    assert (quick.current(STUDY).state, len(quick.record(STUDY).jobs)) == (JobState.DONE, 1)
    assert told(quick)[0].numbers["results"] == 2
    quick.take([key_object(QUALITY, images, number=1)])
    assert quick.current(STUDY).state is JobState.REFUSED
    assert find_problems(quick.settings, quick.database) == []


def test_a_key_object_of_another_title_rejects_nothing(quick: Intake) -> None:
    images = chest()
    best = key_object(QUALITY, images)
    best.ConceptNameCodeSequence[0].CodeValue = "113000"  # of interest
    quick.take([*images, best])
    assert len(read(quick)) == SLICES
    assert (quick.record(STUDY).rejections, told(quick)) == ((), [])


def test_a_key_object_that_can_not_be_read_is_kept_and_told(quick: Intake) -> None:
    images = chest()
    broken = key_object(SAFETY, images)
    nested = Dataset()
    for _ in range(12):
        outer = Dataset()
        outer.ContentSequence = [nested]
        nested = outer
    broken.ContentSequence = [nested]
    quick.take([*images, broken])
    assert len(read(quick)) == SLICES
    assert len(told(quick, kind="rejection_unread")) == 1
    (rejection,) = quick.record(STUDY).rejections
    assert (rejection.title, rejection.sop_instance_uids) == (RejectionTitle.UNREAD, ())
    (problem,) = find_problems(quick.settings, quick.database)
    assert (problem.kind, problem.subject) == ("unread", STUDY)
    config = str(quick.settings.data_dir.parent / "config.toml")
    assert "1 Key Object(s)" in CliRunner().invoke(app, ["discard", STUDY, "--yes", "--config", config]).output
    assert find_problems(quick.settings, quick.database) == []
    shown = CliRunner().invoke(app, ["show", STUDY, "--config", config]).output
    assert "it may reject images, and is not heeded" in shown


def test_results_of_an_analysis_that_ran_meanwhile_are_owed_to_nobody(quick: Intake) -> None:
    images = chest()
    quick.take(images)
    with quick.database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        uow.commit()
    quick.take([key_object(SAFETY, images[:2])])
    made = results(STUDY)
    with quick.database.writing() as uow:
        jobs.finish_job(uow, job.id, job.attempt, made, [Outgoing("pacs", n, each) for n, each in enumerate(made)], {})
        uow.commit()
    assert {each.state for each in quick.record(STUDY).deliveries} == {DeliveryState.KEPT_ASIDE}
    assert (quick.current(STUDY).id > job.id, quick.current(STUDY).state) == (True, JobState.QUEUED)


def test_a_rejection_that_comes_over_the_network_is_heeded(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.replace("[node]", f"[node]\nport = {free_port()}").replace("seconds = 1", "seconds = 0.3"))
    settings = load(config, environment={})
    settings.data_dir.mkdir()
    images = chest()
    for number, each in enumerate([*images, key_object(QUALITY, images[:2])]):
        each.save_as(tmp_path / f"{number:02}.dcm", enforce_file_format=True)
    files = [str(path) for path in sorted(tmp_path.glob("*.dcm"))]
    with receiving(settings, listens_for=60) as node:
        send = [program("storescu", package="dcmtk"), "-aec", settings.node.ae_title]
        subprocess.run([*send, "127.0.0.1", str(node.peer.port), *files], check=True, env=DCMTK_ENVIRONMENT, timeout=60)
        node.wait_for(STUDY, "job_queued")
        record = node.record(STUDY)
        assert record is not None
        assert [each.excluded for each in record.rejections] == [2]
        assert node.events(STUDY, "job_queued")[-1].numbers["instances"] == SLICES - 2
