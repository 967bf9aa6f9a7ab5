"""``hilum check``: results on disk are held against their source images, and what fails is never sent."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from typer.testing import CliRunner, Result

from db.events import EventKind
from hilum.cli import app
from hilum.phantom import write_phantom_study
from sr_writer.results import write_results
from study.forms import Form
from tests.support.comparisons import compared_lungs
from tests.support.enhanced import enhanced_image, frame_headers
from tests.support.mutations import Change, Written, changed, everything, setting
from tests.support.node import Node, running
from tests.support.peers import program
from tests.support.results import CONTEXT, MODEL, headers_on_disk, lungs, result_of
from tests.support.series import axial_affine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def written(folder: Path) -> Written:
    return everything(folder)


def check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def spoilt(path: Path, change: Change, folder: Path) -> Path:
    folder.mkdir()
    return changed(path, change, folder)


def test_sound_results_are_ok_and_said_in_words(written: Written, folder: Path) -> None:
    # Of the folder the source images and the second Segmentation of the same UID are passed over or noted
    done = check(folder, "--source", folder / "in")
    assert done.exit_code == 0, done.stdout
    lines = done.stdout.splitlines()
    assert f"ok   {written.files[Form.SEG]}: Segmentation, 2 segments, 13 frames" in lines
    assert any(line.endswith(": RT Structure Set, 2 regions, 13 contours") for line in lines)
    assert sum(line.startswith("ok ") for line in lines) == len(Form) + 1
    assert sum("again" in line for line in lines if line.startswith("note")) == 1
    assert lines[-1] == "9 other files in the folders hold no result of Hilum's"
    assert lines[-2].startswith("Held against source images alone")


def test_each_broken_rule_is_a_line(written: Written, folder: Path, tmp_path: Path) -> None:
    def ruin(dataset: Dataset) -> None:
        dataset.PatientID = "P2"
        dataset.FrameOfReferenceUID = "2.25.8"

    path = spoilt(written.files[Form.SEG], ruin, tmp_path / "a")
    done = check(path, written.files[Form.SR], "--source", folder / "in")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert f"FAIL {path}: Identity: PatientID is not what the source has." in lines
    assert any(line.startswith(f"FAIL {path}: GeometryMismatch: The Frame of Reference") for line in lines)
    assert any(line.startswith(f"ok   {written.files[Form.SR]}: Comprehensive 3D SR, ") for line in lines)
    assert len(lines) == 4
    assert "P2" not in done.stdout


def test_objects_of_a_set_are_held_against_each_other(written: Written, folder: Path, tmp_path: Path) -> None:
    def rename(segmentation: Dataset) -> None:
        segmentation.SegmentSequence[0].TrackingID = "Liver"

    segmentation = spoilt(written.files[Form.SEG], rename, tmp_path / "a")
    done = check(segmentation, written.files[Form.SR], "--source", folder / "in")
    assert done.exit_code == 1
    assert f"FAIL {written.files[Form.SR]}: Tracking: " in done.stdout
    again = spoilt(written.files[Form.SEG], setting("ContentLabel", "OTHER"), tmp_path / "b")
    done = check(written.files[Form.SEG], again, "--source", folder / "in")
    assert f"FAIL {again}: UID: It has the SOP Instance UID of {written.files[Form.SEG]}, and other content." in (
        done.stdout
    )


def test_a_report_on_segments_needs_them(written: Written, folder: Path) -> None:
    report = written.files[Form.SR_SEGMENTS]
    alone = check(report, "--source", folder / "in")
    assert alone.exit_code == 1
    assert "refers to 1 result object(s) that are not among the files; give those too" in alone.stdout
    assert check(report, report.parent / "seg.dcm", "--source", folder / "in").exit_code == 0


def test_json(written: Written, folder: Path, tmp_path: Path) -> None:
    path = spoilt(written.files[Form.SEG], setting("PatientID", "P2"), tmp_path / "a")
    done = check(path, written.files[Form.PDF], "--source", folder / "in", "--json")
    assert done.exit_code == 1
    first, second = json.loads(done.stdout)
    assert (first["file"], first["ok"], first["form"]) == (str(path), False, "seg")
    assert [reason["code"] for reason in first["reasons"]] == ["Identity"]
    assert (second["ok"], second["form"], second["reasons"]) == (True, "pdf", [])


def test_what_can_not_be_checked_is_said_in_words(written: Written, folder: Path, tmp_path: Path) -> None:
    text, cut = tmp_path / "notes.txt", tmp_path / "cut.dcm"
    text.write_text("no DICOM")
    cut.write_bytes(written.files[Form.SEG].read_bytes()[:-500])
    foreign = next((folder / "in").iterdir())
    implicit = tmp_path / "implicit.dcm"
    dataset = dcmread(written.files[Form.SR])
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(implicit, implicit_vr=True)
    done = check(text, cut, foreign, implicit, "--source", folder / "in")
    assert done.exit_code == 1
    assert f"FAIL {text}: NotDicom: It is no DICOM file." in done.stdout
    assert f"FAIL {cut}: File: " in done.stdout
    assert f"FAIL {foreign}: Foreign: It is no result of Hilum's (CT, SOP Class CT Image Storage)" in done.stdout
    assert f"FAIL {implicit}: TransferSyntax: It is in Implicit VR Little Endian" in done.stdout
    assert len(done.stdout.splitlines()) == 4


def test_a_missing_source_is_said_with_the_remedy(written: Written, folder: Path, tmp_path: Path) -> None:
    headers_on_disk(tmp_path / "other", (3, 16, 24))
    (tmp_path / "nothing").mkdir()
    for images in (tmp_path / "other", tmp_path / "nothing"):
        done = check(written.files[Form.SEG], "--source", images)
        assert done.exit_code == 1
        assert f"FAIL {written.files[Form.SEG]}: Source: " in done.stdout
        assert f"{images} holds " in done.stdout
    done = check(written.files[Form.SEG], "--config", tmp_path / "config.toml")
    assert done.exit_code == 1
    assert "--source DIR names the folder" in done.stdout
    assert check(tmp_path / "nothing", "--source", folder / "in").stdout == "there is nothing to check\n"


def test_a_slice_that_is_missing_from_the_folder_is_noticed(written: Written, folder: Path, tmp_path: Path) -> None:
    images = shutil.copytree(folder / "in", tmp_path / "in")
    (images / "00004.dcm").unlink()
    done = check(written.files[Form.SEG], "--source", images)
    assert done.exit_code == 1
    assert "lead to no source image" in done.stdout


def test_a_text_that_the_source_declares_wrongly_is_a_note(folder: Path, tmp_path: Path) -> None:
    shape = (9, 16, 24)
    headers_on_disk(tmp_path / "in", shape, attributes={"PatientName": "Muller"})
    for path in (tmp_path / "in").iterdir():
        content = path.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 192").replace(b"Muller", b"M\xfcller")
        path.write_bytes(content)
    sources = [dcmread(path, stop_before_pixels=True) for path in sorted((tmp_path / "in").iterdir())]
    write_results(result_of(lungs(shape)), sources, MODEL, CONTEXT, tmp_path)
    done = check(tmp_path / "sr.dcm", "--source", tmp_path / "in")
    assert done.exit_code == 0
    assert f"note {tmp_path / 'sr.dcm'}: PatientName can not be decoded" in done.stdout


def test_frames_of_a_multi_frame_image_are_found(tmp_path: Path) -> None:
    shape = (9, 16, 24)
    order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
    image = enhanced_image(np.full(shape, 40), axial_affine(), order)
    sources = frame_headers(image, order, tmp_path / "in")
    write_results(result_of(lungs(shape)), sources, MODEL, CONTEXT, tmp_path / "out")
    done = check(tmp_path / "out", "--source", tmp_path / "in")
    assert done.exit_code == 0, done.stdout
    assert done.stdout.count("ok ") == 2


BROKEN = """
[[models]]
name = "contradicting"
bundle = "builtin:lung_ct"
[[models.segments]]
value = 1
label = "Right lung"
type = ["3341006", "SCT", "Right kidney"]
[[models.segments]]
value = 2
label = "Left lung"
type = ["44029006", "SCT", "Left lung"]
"""
"""A site that gives the code of the right lung another meaning."""


def test_what_fails_the_check_is_kept_aside_and_never_sent(tmp_path: Path) -> None:
    program("storescu", package="dcmtk")
    write_phantom_study(tmp_path / "phantom", datetime.now(UTC), 24)
    archive = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 9, "results": ["seg", "sr"]}
    node = Node(tmp_path / "node", [archive])
    node.config.write_text(node.config.read_text() + BROKEN)
    with running(node):
        node.send(tmp_path / "phantom")
        (record,) = node.wait_for_state("FAILED")
    jobs = {job.model_name: job for job in record.jobs}
    assert {name: job.state.value for name, job in jobs.items()} == {"lung_ct": "DONE", "contradicting": "FAILED"}
    failed = jobs["contradicting"]
    assert failed.reason is not None
    assert failed.reason.code == "NonconformantObject"
    assert "3341006/SCT" in failed.reason.words

    # Nothing of it is owed to anybody, and it lies where the words say
    assert {job for job, _ in record.results} == {jobs["lung_ct"].id}
    assert {delivery.job_id for delivery in record.deliveries} == {jobs["lung_ct"].id}
    kept = f"results/{record.summary.study_instance_uid}/rejected/{failed.id}-1/seg.dcm"
    assert f"it is kept as {kept} in the data directory" in failed.reason.words
    (told,) = [event for event in record.events if event.job_id == failed.id and event.kind == EventKind.JOB_FAILED]
    assert kept in told.words
    assert kept in node.command("show", record.summary.study_instance_uid).stdout

    # hilum check finds the sources of both in the node's store
    done = node.command("check", str(node.data_dir / kept), check=False)
    assert done.returncode == 1
    assert f"FAIL {node.data_dir / kept}: Code: " in done.stdout
    sound = [str(node.data_dir / result.path) for _, result in record.results]
    done = node.command("check", *sound)
    assert [line[:4] for line in done.stdout.splitlines()] == ["ok  "] * 2
    wrong = node.folder / "changed.dcm"
    with disable_value_validation():
        dataset = dcmread(sound[0])
        dataset.PatientID = "P2"
        dataset.save_as(wrong)
    done = node.command("check", str(wrong), check=False)
    assert done.stdout == f"FAIL {wrong}: Identity: PatientID is not what the source has.\n"


def test_a_comparison_is_held_against_the_earlier_studies_in_the_folder(tmp_path: Path) -> None:
    images = compared_lungs(tmp_path / "in")
    made = write_results(images.result, images.sources, MODEL, CONTEXT, tmp_path / "out", earlier=images.earlier)
    reports = [tmp_path / "out" / result.path for result in made]
    done = check(*reports, "--source", tmp_path / "in")
    assert done.exit_code == 0, done.stdout
    (tmp_path / "in" / "20210302" / "00004.dcm").unlink()
    done = check(*reports, "--source", tmp_path / "in")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 2
    assert all("lacks images of an earlier study that the object compares with" in line for line in failed)
