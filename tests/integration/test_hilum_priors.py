"""Earlier studies of two dates, found in Orthanc, fetched, analysed and compared: from the images to the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import update

from db.complete import priors
from db.files.filestore import FileStore
from db.images import index
from db.overview.queries import retry_study
from db.tables import JobRow
from db.work.jobs import fail_attempt, finish_job, interrupt_job, lease_job
from hilum.archives.comparisons import search_words
from hilum.checking import examine
from hilum.config import Settings
from hilum.pipeline import Pipeline
from hilum.processes import StopSignal
from hilum.roles.keeper import Keeper
from hilum.sources import StoreSources
from hilum.working.wire import Request
from inference.account import Account
from scp.association.requesting import Peer
from sr_writer.reading.report import Report, read_report
from study.entities import Job
from study.errors import Reason
from study.forms import Form, Wish, settle
from study.identity import CONFLICTING
from study.priors import NO_ANSWER, NO_PRIOR
from study.searches import PriorOutcome, PriorSearch, SearchState
from study.states import JobState, StudyState
from tests.support.network import free_port, wait_until
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.phantoms import Thorax, grid_affine, thorax
from tests.support.reception import Reception, receiving, send_to
from tests.support.series import ct_series

NODE_PORT = free_port()
SHAPE = (64, 80, 96)
AFFINE = grid_affine(((0, 0, 1), (0, 1, 0), (1, 0, 0)), (5.0, 4.0, 4.0), SHAPE)
SPRING, WINTER, BETWEEN, TODAY = "20230511", "20210302", "20220808", "20240203"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    node = {"hilum": Peer("hilum", "HILUM", "127.0.0.1", NODE_PORT)}
    with running_orthanc(tmp_path_factory.mktemp("pacs"), modalities=node) as orthanc:
        yield orthanc


@pytest.fixture(scope="module")
def phantom() -> Thorax:
    return thorax(AFFINE, SHAPE)


def chest(phantom: Thorax, date: str, patient: str, size: float = 1.0, **attributes: object) -> list[Dataset]:
    """Return the phantom on a date, grown by a factor along each axis."""
    affine = AFFINE.copy()
    affine[:3] *= size
    said = {"StudyDate": date, "PatientID": patient, "SeriesDescription": "Thorax 5.0", "BodyPartExamined": "CHEST"}
    return ct_series(phantom.volume.voxels, affine, attributes=said | attributes)


def millilitres(phantom: Thorax, size: float) -> float:
    return float((phantom.truth > 0).sum()) * phantom.volume.voxel_millilitres * size**3


def configured(folder: Path, pacs_port: int, **described: Any) -> Settings:  # noqa: ANN401 - any key of [models.priors]
    made = Settings.model_validate(
        {
            "node": {"data_dir": "var", "port": NODE_PORT, "disk_reserve_mb": 0},
            "study": {"quiet_seconds": 1, "settle_seconds": 0.2},
            "inference": {"devices": ["cpu"]},
            "peers": {
                "modality": {"name": "modality", "ae_title": "MODALITY", "archive": "pacs"},
                "pacs": {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs_port},
                "elsewhere": {"name": "elsewhere", "ae_title": "ELSEWHERE", "analyse": False},
            },
            "models": {"lung_ct": {"name": "lung_ct", "bundle": "builtin:lung_ct", "priors": described}},
            "base_dir": folder,
        }
    )
    made.data_dir.mkdir(parents=True)
    return made


def search_of(reception: Reception, study: str) -> PriorSearch | None:
    with reception.database.reading() as uow:
        return priors.searches_of(uow, study).get("lung_ct")


def queued(reception: Reception, study: str) -> Job:
    """Return the job of a study once it waits for a worker."""
    reception.wait_for(study, "job_queued", seconds=40)
    record = reception.record(study)
    assert record is not None
    (job,) = (job for job in record.jobs if job.current)
    return job


def reports_of(reception: Reception, folder: Path) -> tuple[list[Report], list[Dataset], dict[str, Any]]:
    """Run the next job as the runner does; return its reports, as read and as they are, and the record of it."""
    store = FileStore(reception.settings.data_dir)
    with reception.database.writing() as uow:
        job = lease_job(uow, "test", 60.0, lambda _model, _running: True)
        assert job is not None
        uow.commit()
        now = [(str(store.locate(each)), each.header) for each in index.instances_of_job(uow, job.id)]
        then = [
            [(str(store.locate(each)), each.header) for each in prior] for prior in priors.priors_of_job(uow, job.id)
        ]
    variants = settle(Wish("pacs", (Form.SEG, Form.SR)), {}).variants
    into = store.results_folder(job.study_instance_uid) / folder.name
    request = Request.of_job(job, now, into, store.node_identity(), variants, then)
    account = Account()
    results = Pipeline(reception.settings).run(Request.from_bytes(request.to_bytes()), account)
    with reception.database.writing() as uow:
        finish_job(uow, job.id, job.attempt, results, (), account.details())
        uow.commit()
    paths = [store.root / result.path for result in results if result.form == "sr"]
    verdicts, _ = examine(paths, StoreSources(reception.database, store))
    assert [(verdict.reasons, verdict.compared) for verdict in verdicts] == [([], True)] * len(paths)
    return [read_report(path) for path in paths], [dcmread(path) for path in paths], account.details()


def test_two_dates_are_compared_and_another_birth_date_is_refused(
    pacs: Orthanc, phantom: Thorax, tmp_path: Path
) -> None:
    spring, winter = chest(phantom, SPRING, "P-two", 0.98), chest(phantom, WINTER, "P-two", 1.02)
    strange = chest(phantom, BETWEEN, "P-two", PatientBirthDate="19700102")
    old = chest(phantom, "20200101", "P-two")[:3]
    now = chest(phantom, TODAY, "P-two")
    for images in (spring, winter, strange, old, now):
        send_to(pacs.peer, images, tmp_path / "pacs")
    study = str(now[0].StudyInstanceUID)
    with receiving(configured(tmp_path, pacs.dicom_port, count=2)) as reception:
        reception.send(now)
        job = queued(reception, study)
        search = search_of(reception, study)
        assert search is not None
        assert search.state is SearchState.DONE
        assert [(each.study_date, each.outcome) for each in search.found] == [
            (SPRING, PriorOutcome.HERE),
            (BETWEEN, PriorOutcome.REFUSED),
            (WINTER, PriorOutcome.HERE),
            ("20200101", PriorOutcome.NOT_NEEDED),
        ]
        assert [prior["date"] for prior in job.parameters["priors"]] == [SPRING, WINTER]
        told = "Not compared with the study of 2022-08-08: another birth date is stated there."
        assert job.parameters["not_compared"] == [{"code": CONFLICTING, "words": told}]
        assert [reception.record(str(each[0].StudyInstanceUID)) for each in (strange, old)] == [None, None]
        for images in (spring, winter):  # what was fetched starts nothing of its own
            fetched = str(images[0].StudyInstanceUID)
            assert reception.here(fetched, fetched=True) == {str(image.SOPInstanceUID) for image in images}
            wait_until(partial(is_not_selected, reception, fetched), 20, "a verdict")
        assert "Not compared with the study of 2022-08-08" in "\n".join(search_words([search]))
        (measured, words), (document, in_words), details = reports_of(reception, tmp_path / "1-1")
    demand_compared(measured, phantom, {SPRING: 0.98, WINTER: 1.02})
    assert [each["compared"] for each in details["priors"]] == [True, True]
    assert details["seconds"]["prior"] > 0
    listed = {str(item.StudyInstanceUID) for item in document.PertinentOtherEvidenceSequence}
    assert listed == {str(images[0].StudyInstanceUID) for images in (spring, winter)}
    assert words.series_description == "CT lung densitometry comparison - not for diagnostic use"
    assert words.compared_with == (
        'Study of 2023-05-11, series 3 (CT) "Thorax 5.0", 64 images.',
        'Study of 2021-03-02, series 3 (CT) "Thorax 5.0", 64 images.',
    )
    assert told in words.limits
    volume = measured.findings[2].measurements[0]
    first = volume.changes[0]
    assert (
        f"Both lungs: Volume {volume.value} mL on 2024-02-03, {first.earlier} mL on 2023-05-11 (change "
        in "\n".join(words.sentences)
    )
    assert in_words.PertinentOtherEvidenceSequence == document.PertinentOtherEvidenceSequence


def is_not_selected(reception: Reception, study: str) -> bool:
    record = reception.record(study)
    return record is not None and record.summary.state is StudyState.NOT_SELECTED and not record.jobs


def demand_compared(report: Report, phantom: Thorax, sizes: Mapping[str, float]) -> None:
    """Hold the volumes of both lungs against those of the phantom, and each change against the volumes."""
    both = next(finding for finding in report.findings if finding.label == "Both lungs")
    volume = next(row for row in both.measurements if row.name == "Volume")
    assert volume.value == pytest.approx(millilitres(phantom, 1.0), rel=0.05)
    assert [change.study_date for change in volume.changes] == list(sizes)
    for change, size in zip(volume.changes, sizes.values(), strict=True):
        then, now = millilitres(phantom, size), millilitres(phantom, 1.0)
        assert change.earlier == pytest.approx(then, rel=0.05)
        assert change.absolute == pytest.approx(volume.value - change.earlier, abs=1e-6)
        assert change.absolute == pytest.approx(now - then, rel=0.05)  # what the model errs by, it errs by in both
        assert change.percent == pytest.approx(100 * (now / then - 1), abs=0.1)
    attenuation = next(row for row in both.measurements if row.derivation == "Mean")
    assert [change.percent for change in attenuation.changes] == [None] * len(sizes)
    assert all(abs(change.absolute) < 1 for change in attenuation.changes)


def small(date: str, patient: str, slices: int = 24, **attributes: object) -> list[Dataset]:
    """Return images of which a plan can be made, and nothing else."""
    said = {"StudyDate": date, "PatientID": patient, "SeriesDescription": "Thorax 5.0"} | attributes
    return ct_series(np.zeros((slices, 8, 8)), attributes=said)


def test_an_older_study_is_fetched_where_the_latest_can_not_be_used(pacs: Orthanc, tmp_path: Path) -> None:
    spring, winter, now = (small(date, "P-gap") for date in (SPRING, WINTER, TODAY))
    del spring[7:12]
    scout = small(SPRING, "P-gap", 3, SeriesDescription="Topogram", StudyInstanceUID=spring[0].StudyInstanceUID)
    other = small(BETWEEN, "P-gap", Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    for images in (spring, scout, other, winter):
        send_to(pacs.peer, images, tmp_path / "pacs")
    study = str(now[0].StudyInstanceUID)
    with receiving(configured(tmp_path, pacs.dicom_port)) as reception:
        reception.send(now)
        job = queued(reception, study)
        search = search_of(reception, study)
        assert search is not None
        assert [(each.study_date, each.outcome) for each in search.found] == [
            (SPRING, PriorOutcome.UNUSABLE),
            (BETWEEN, PriorOutcome.NOT_WANTED),
            (WINTER, PriorOutcome.HERE),
        ]
        assert search.found[0].reason is not None
        assert search.found[0].reason.code == "MissingSlices"
        assert [prior["date"] for prior in job.parameters["priors"]] == [WINTER]
        assert [told["code"] for told in job.parameters["not_compared"]] == ["MissingSlices"]
        with reception.database.reading() as uow:
            (prior,) = priors.priors_of_job(uow, job.id)
        assert [each.header.sop_instance_uid for each in prior] == [str(image.SOPInstanceUID) for image in winter]


def test_what_is_here_already_is_not_fetched_and_what_is_not_whole_here_is(pacs: Orthanc, tmp_path: Path) -> None:
    spring, now = small(SPRING, "P-here"), small(TODAY, "P-here")
    send_to(pacs.peer, spring, tmp_path / "pacs")
    study, earlier = str(now[0].StudyInstanceUID), str(spring[0].StudyInstanceUID)
    with receiving(configured(tmp_path, pacs.dicom_port)) as reception:
        reception.send(spring[4:], calling="ELSEWHERE")
        reception.send(now)
        job = queued(reception, study)
        assert reception.here(earlier, fetched=True) == {str(image.SOPInstanceUID) for image in spring[:4]}
        assert len(reception.here(earlier)) == len(spring)
        (prior,) = job.parameters["priors"]
        assert prior["study"] == earlier
        # After an attempt that was stopped at the earlier study the next one does without
        keeper = Keeper(reception.settings, reception.database, FileStore(reception.settings.data_dir), StopSignal())
        assert _request(reception, keeper, {"stopped_in": "inference"}).without_priors == ""
        request = _request(reception, keeper, {"stopped_in": "prior"})
    assert request.without_priors.startswith("Not compared: the attempt before this one was stopped")
    assert [len(each) for each in request.priors] == [len(spring)]


def test_nothing_is_fetched_where_the_site_forbids_it(pacs: Orthanc, tmp_path: Path) -> None:
    spring, now = small(SPRING, "P-none"), small(TODAY, "P-none")
    for images in (spring, now):
        send_to(pacs.peer, images, tmp_path / "pacs")
    settings = configured(tmp_path, pacs.dicom_port)
    archive = settings.peers["pacs"].model_copy(update={"retrieve": "none"})
    settings = settings.model_copy(update={"peers": settings.peers | {"pacs": archive}})
    with receiving(settings) as reception:
        reception.send(now)
        (told,) = queued(reception, str(now[0].StudyInstanceUID)).parameters["not_compared"]
        assert reception.record(str(spring[0].StudyInstanceUID)) is None
    assert told["code"] == "RetrieveFailed"
    assert told["words"].endswith('nothing may be fetched from pacs (retrieve = "none").')


def test_an_archive_that_does_not_answer_is_waited_for_no_longer_than_the_model_may(tmp_path: Path) -> None:
    now = small(TODAY, "P-silent")
    study = str(now[0].StudyInstanceUID)
    with receiving(configured(tmp_path, free_port(), wait_seconds=1), listens_for=60) as reception:
        reception.send(now)
        job = queued(reception, study)
        assert job.state is JobState.QUEUED
        (told,) = job.parameters["not_compared"]
        assert told["code"] == NO_ANSWER
        assert told["words"] == "Not compared with what the archive may hold: it did not answer in 1 s."


def test_a_model_that_needs_an_earlier_study_is_refused_where_there_is_none(pacs: Orthanc, tmp_path: Path) -> None:
    now = small(TODAY, "P-first")
    send_to(pacs.peer, now, tmp_path / "pacs")
    study = str(now[0].StudyInstanceUID)
    with receiving(configured(tmp_path, pacs.dicom_port, required=True, wait_seconds=20)) as reception:
        reception.send(now)
        refused = reception.wait_for(study, "job_refused", seconds=40)
        assert refused.numbers["code"] == NO_PRIOR
        assert refused.words.endswith("Not compared: no earlier study of the patient was found.")
        # It comes to the archive, and a person has the study tried again: by now nothing but the search is waited for
        send_to(pacs.peer, small(SPRING, "P-first"), tmp_path / "pacs")
        with reception.database.writing() as uow:
            retry_study(uow, study)
            uow.commit()
        assert [prior["date"] for prior in queued(reception, study).parameters["priors"]] == [SPRING]


def _request(reception: Reception, keeper: Keeper, details: Mapping[str, Any]) -> Request:
    """Return what is asked of the runner after an attempt that ended with this record."""
    with reception.database.writing() as uow:
        job = lease_job(uow, "test", 60.0, lambda _model, _running: True)
        assert job is not None
        fail_attempt(uow, job.id, job.attempt, Reason("DeadlineExceeded", "Too long."), True, 9, details)
        uow.execute(update(JobRow).values(not_before=uow.now()))
        again = lease_job(uow, "test", 60.0, lambda _model, _running: True)
        assert again is not None
        interrupt_job(uow, again.id, again.attempt)
        uow.execute(update(JobRow).values(not_before=uow.now()))
        uow.commit()
    return keeper._request(again, [])
