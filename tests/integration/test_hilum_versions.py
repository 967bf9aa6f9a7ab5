"""Images that come again: another header is analysed, other pixels are an alarm, and another encoding is nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from typer.testing import CliRunner

from db.images.versions import Standing
from hilum import showing
from hilum.cli import app
from hilum.problems import find_problems, remedy
from hilum.requesting import analyse
from study.states import JobState, StudyState, Which
from tests.support.databases import DIALECTS
from tests.support.indexing import Intake, indexing
from tests.support.series import axial_affine, ct_series, save_series

STUDY = "2.25.8100"
CORRECTED = "corrected"


@pytest.fixture(params=DIALECTS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Intake]:
    with indexing(tmp_path, request.param) as intake:
        yield intake


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Intake]:
    with indexing(tmp_path) as intake:
        yield intake


def images(value: int = 0, **attributes: object) -> list[Dataset]:
    made = ct_series(
        np.arange(20 * 4096).reshape(20, 64, 64) % 800 - 900,
        axial_affine((2.0, 0.8, 0.8)),
        study_instance_uid=STUDY,
        series_instance_uid=f"{STUDY}.1",
        attributes=attributes,
    )
    for number, image in enumerate(made):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(f"{STUDY}.2.{number}")
        image.FrameOfReferenceUID = f"{STUDY}.3"
    if value:
        made[3].PixelData = np.full((64, 64), value, dtype=np.int16).tobytes()
    return made


def encoded(these: Sequence[Dataset], syntax: str) -> list[Dataset]:
    """Return images in another Transfer Syntax, otherwise as they are."""
    for each in these:
        if syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            each.file_meta.TransferSyntaxUID = UID(syntax)
        elif syntax == JPEG2000:
            each.compress(syntax, generate_instance_uid=False, j2k_cr=[20])
            each.LossyImageCompression = "01"
        else:
            each.compress(syntax, generate_instance_uid=False)
    return list(these)


def states(node: Intake) -> list[tuple[JobState, bool]]:
    return [(job.state, job.current) for job in node.record(STUDY).jobs]


def problems(node: Intake) -> list[str]:
    return [each.kind.value for each in find_problems(node.settings, node.database)]


def standings(node: Intake) -> set[str]:
    return set(node.record(STUDY).standings.values())


def test_a_corrected_header_is_analysed_anew(quick: Intake) -> None:
    quick.take(images())
    quick.analyse(STUDY)
    quick.take(images(StudyDescription=CORRECTED))
    assert states(quick) == [(JobState.DONE, False), (JobState.QUEUED, True)]
    assert standings(quick) == {Standing.REPLACED}


def test_other_pixels_are_refused_until_a_person_wants_the_newest_for_now(quick: Intake) -> None:
    quick.take(images())
    quick.take(images(900, StudyDescription=CORRECTED))
    record = quick.record(STUDY)
    assert record.summary.state is StudyState.REFUSED
    assert record.summary.reason is not None
    assert (record.summary.reason.code, record.summary.reason.numbers) == ("PixelsChanged", {"images": 1})
    (problem,) = find_problems(quick.settings, quick.database)
    assert (problem.kind, problem.subject) == ("alarm", STUDY)
    assert f"hilum analyse {STUDY} --versions newest" in remedy(problem)

    said = list(analyse(quick.settings, quick.database, STUDY))
    assert said[0].startswith("lung_ct: runs on 20 image(s)")
    quick.settle()
    assert quick.current(STUDY).state is JobState.QUEUED
    assert problems(quick) == []

    quick.take(images(901, StudyDescription=CORRECTED))  # what a person said holds for what he saw
    assert quick.record(STUDY).summary.state is StudyState.REFUSED


def test_a_person_says_that_the_old_images_are_right_and_their_results_stand(node: Intake) -> None:
    node.take(images())
    first = node.analyse(STUDY)
    node.take(encoded(images(), RLELossless))
    wrong = images(900)
    node.take(wrong)
    assert problems(node) == ["alarm"]
    said = list(analyse(node.settings, node.database, STUDY, which=Which.OLDEST))
    assert said[0] == "of 1 image(s) the oldest pixels count; the others are kept, and count no more"
    assert said[1] == f"lung_ct: has run on these very images, which is not done twice (job {first.id})"
    node.settle()
    assert (node.current(STUDY).id, problems(node)) == (first.id, [])
    assert standings(node) >= {Standing.DISCOUNTED}
    assert len(list((node.settings.data_dir / "store").rglob("*.dcm"))) >= 21

    node.take(wrong)  # the wrong ones once more: they count no more
    assert (node.current(STUDY).id, problems(node)) == (first.id, [])
    late = images()[:1]
    late[0].SOPInstanceUID = late[0].file_meta.MediaStorageSOPInstanceUID = UID(f"{STUDY}.2.99")
    late[0].ImagePositionPatient = [-20, -30, 0]
    node.take(late)  # and no later image brings the alarm back
    assert (node.current(STUDY).state, problems(node)) == (JobState.QUEUED, [])


def test_what_a_person_said_of_versions_survives_the_loss_of_the_database(quick: Intake) -> None:
    quick.take(images())
    job = quick.analyse(STUDY)
    quick.take(encoded(images(), RLELossless))
    quick.take(images(900))
    list(analyse(quick.settings, quick.database, STUDY, which=Which.OLDEST))
    quick.settle()
    quick.rebuild()
    assert (quick.current(STUDY).id, quick.current(STUDY).state) == (job.id, JobState.DONE)
    assert (Standing.DISCOUNTED in standings(quick), problems(quick)) == (True, [])


def test_the_last_correction_of_the_old_images_counts_and_a_person_may_think_again(quick: Intake) -> None:
    quick.take(images())
    quick.take(images(StudyDescription=CORRECTED))
    corrected = quick.current(STUDY)
    quick.take(images(900, StudyDescription=CORRECTED))
    list(analyse(quick.settings, quick.database, STUDY, which=Which.OLDEST))
    quick.settle()
    assert quick.current(STUDY).id == corrected.id
    list(analyse(quick.settings, quick.database, STUDY, which=Which.NEWEST))
    quick.settle()
    assert quick.current(STUDY).id != corrected.id
    assert (quick.current(STUDY).state, problems(quick)) == (JobState.QUEUED, [])
    quick.take(images(901, StudyDescription=CORRECTED))
    assert problems(quick) == ["alarm"]


def test_the_same_images_in_other_encodings_change_nothing(quick: Intake) -> None:
    quick.take(encoded(images(), JPEG2000Lossless))
    job = quick.analyse(STUDY)
    again = encoded(images(), ExplicitVRLittleEndian)
    quick.take(again)
    quick.take(encoded(images(), ImplicitVRLittleEndian))
    quick.take(again)
    record = quick.record(STUDY)
    assert [each.id for each in record.jobs] == [job.id]
    assert (quick.current(STUDY).id, record.revision, record.summary.state) == (job.id, 1, StudyState.DELIVERED)
    assert len(record.other_versions) == 40
    assert standings(quick) == {Standing.SAME}
    assert [event.numbers for event in record.events if event.kind == "same_again"] == [{"instances": 20}] * 3


def test_a_correction_in_another_encoding_is_a_correction_and_the_archives_form_of_it_nothing(quick: Intake) -> None:
    quick.take(images())
    quick.take(encoded(images(StudyDescription=CORRECTED), JPEGLSLossless))
    corrected = quick.current(STUDY)
    assert states(quick) == [(JobState.SUPERSEDED, False), (JobState.QUEUED, True)]
    quick.take(images(StudyDescription=CORRECTED))
    assert (quick.current(STUDY).id, problems(quick)) == (corrected.id, [])


@pytest.mark.parametrize("change", [lambda: encoded(images(900), RLELossless), lambda: encoded(images(), JPEG2000)])
def test_other_pixels_in_another_encoding_and_a_lossy_form_are_an_alarm(
    quick: Intake, change: Callable[[], list[Dataset]]
) -> None:
    quick.take(images())
    quick.take(change())
    assert problems(quick) == ["alarm"]


def test_what_can_not_be_decoded_counts_as_a_correction_and_is_on_record(quick: Intake) -> None:
    quick.take(images())
    broken = encoded(images(), RLELossless)
    broken[5].PixelData = broken[5].PixelData[:20] + bytes(len(broken[5].PixelData) - 20)
    quick.take(broken)
    job = quick.current(STUDY)
    assert (job.state, len(quick.record(STUDY).jobs), standings(quick)) == (
        JobState.QUEUED,
        2,
        {Standing.SAME, Standing.REPLACED},
    )


def test_what_is_not_here_any_more_counts_as_a_correction_and_holds_nothing_up(quick: Intake) -> None:
    quick.take(images())
    for path in quick.store.stored_files(STUDY):
        path.unlink()
    quick.take(encoded(images(), RLELossless))
    assert (quick.current(STUDY).state, len(quick.record(STUDY).jobs)) == (JobState.QUEUED, 2)


def test_a_file_that_can_not_be_read_or_wants_too_much_memory_holds_up_no_other(tmp_path: Path) -> None:
    good = save_series(images()[:3], tmp_path)
    large = dcmread(good[2])
    large.NumberOfFrames, large.Rows, large.Columns = 1, 40_000, 40_000
    large.save_as(tmp_path / "large")
    paths = [good[0], tmp_path / "none.dcm", tmp_path / "large", good[1]]
    found = list(showing.shown_by(paths, 60, 2**26))
    assert ["unread" in each for each in found] == [False, True, True, False]
    assert found[0]["pixels"] != found[3]["pixels"]


def test_a_file_that_takes_too_long_is_unread_and_so_is_what_follows_it(tmp_path: Path) -> None:
    good = save_series(images()[:2], tmp_path)
    os.mkfifo(tmp_path / "endless.dcm")
    began = time.monotonic()
    found = list(showing.shown_by([good[0], tmp_path / "endless.dcm", good[1]], 1.5, 2**30))
    assert found[1:] == [{"unread": "DeadlineExceeded"}] * 2
    assert time.monotonic() - began < 20


def test_the_command_takes_the_word_of_a_person(quick: Intake) -> None:
    quick.take(images())
    quick.take(images(900))
    config = quick.settings.data_dir.parent / "config.toml"
    done = CliRunner().invoke(app, ["analyse", STUDY, "--versions", "oldest", "--config", str(config)])
    assert (done.exit_code, "of 1 image(s) the oldest pixels count" in done.output) == (0, True)
    done = CliRunner().invoke(app, ["show", STUDY, "--config", str(config)])
    assert "1 version(s) that a person said are wrong" in done.output
