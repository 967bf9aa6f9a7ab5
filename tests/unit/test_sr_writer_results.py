from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.checking.rules import read_back
from sr_writer.codes import own_codes
from sr_writer.results import write_results
from sr_writer.texts import ascii_text, long_string
from study.errors import EncodingError, MissingIdentity
from study.forms import Form, Variant
from tests.support.peers import REPOSITORY, program
from tests.support.results import CONTEXT, MODEL, headers_on_disk, lungs, result_of, variants_of

SHAPE = (12, 40, 60)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


def test_both_forms_are_on_disk_the_segmentation_first(tmp_path: Path, sources: list[Dataset]) -> None:
    seg, sr = write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path / "new" / "folder")
    assert (seg.form, sr.form) == ("seg", "sr")
    for result in (seg, sr):
        path = tmp_path / "new" / "folder" / result.path
        assert result.digest == hashlib.sha256(path.read_bytes()).hexdigest()
        assert result.size == path.stat().st_size
        assert dcmread(path).SOPInstanceUID == result.sop_instance_uid
    assert seg.series_instance_uid != sr.series_instance_uid


def test_a_retry_gives_the_same_files(tmp_path: Path, sources: list[Dataset]) -> None:
    first = write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path / "a")
    assert write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path / "b") == first


@pytest.mark.parametrize("form", ["seg", "sr"])
def test_one_form_alone(tmp_path: Path, sources: list[Dataset], form: str) -> None:
    (result,) = write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path, variants=variants_of(form))
    assert result.form == form
    assert [path.name for path in tmp_path.iterdir()] == [f"{form}.dcm"]


def test_a_label_map_without_a_voxel_makes_a_report_alone(tmp_path: Path, sources: list[Dataset]) -> None:
    result = result_of(np.zeros(SHAPE, dtype=np.uint8))
    findings = tuple(replace(each, detected=False, measurements=()) for each in result.findings)
    (only,) = write_results(replace(result, findings=findings), sources, MODEL, CONTEXT, tmp_path)
    assert only.form == "sr"


def test_a_report_on_segments_is_refused_without_its_segmentation(tmp_path: Path, sources: list[Dataset]) -> None:
    alone = variants_of("seg", "sr_segments")[1:]
    with pytest.raises(EncodingError, match="refers to seg, which is not made"):
        write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path, variants=alone)


def test_nothing_is_written_for_a_patient_without_id(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", SHAPE, attributes={"PatientID": ""})
    with pytest.raises(MissingIdentity):
        write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    allowing = replace(CONTEXT, allow_empty_patient_id=True)
    assert len(write_results(result_of(lungs(SHAPE)), sources, MODEL, allowing, tmp_path / "out")) == 2


def test_no_two_series_of_a_site_have_the_same_number() -> None:
    numbers = [
        replace(CONTEXT, position=position).series_number(form, of_words=of_words)
        for position in range(301)
        for form in Form
        for of_words in (False, True)
    ]
    assert len(set(numbers)) == len(numbers)
    places = {position: replace(CONTEXT, position=position).series_number(Form.SR) for position in (0, 1, 49, 50, 100)}
    assert places == {0: 9500, 1: 9501, 49: 9549, 50: 10500, 100: 11500}
    assert CONTEXT.series_number(Form.SR, of_words=True) == 9550


def test_file_and_folder_are_synced_around_the_renaming(tmp_path: Path) -> None:
    strace = program("strace", package="strace")
    code = (
        "from pathlib import Path; from sr_writer.files import save; from pydicom.dataset import Dataset\n"
        "d = Dataset(); d.SOPClassUID = '1.2.840.10008.5.1.4.1.1.66.4'; d.SOPInstanceUID = '2.25.9'\n"
        f"save(d, Path({str(tmp_path)!r}) / 'kept.dcm')"
    )
    trace = tmp_path / "trace"
    command = [strace, "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o", str(trace), sys.executable]
    subprocess.run([*command, "-c", code], check=True, cwd=REPOSITORY)
    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines() if "kept" in line or "fsync" in line]
    kinds = [call.split("(")[0].rstrip("at2") for call in calls]
    assert kinds == ["fsync", "rename", "fsync"]
    assert ".kept.dcm.unfinished" in calls[0]
    assert calls[2].rstrip().endswith("= 0")
    assert f"<{tmp_path}>" in calls[2]


def test_a_file_that_holds_another_instance_than_its_meta_says_is_refused(
    tmp_path: Path, sources: list[Dataset]
) -> None:
    write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path, variants=variants_of("sr"))
    content = (tmp_path / "sr.dcm").read_bytes()
    uid = str(dcmread(tmp_path / "sr.dcm").SOPInstanceUID).encode()
    other = uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2")
    (tmp_path / "sr.dcm").write_bytes(content.replace(uid, other, 1))
    with pytest.raises(EncodingError, match="another instance"):
        read_back(tmp_path / "sr.dcm")


def test_every_code_of_ours_has_one_meaning_that_fits() -> None:
    for (value, scheme), meaning in own_codes().items():
        assert 1 <= len(value) <= 16
        assert 1 <= len(scheme) <= 16
        assert long_string(meaning) == meaning


def test_text_has_no_sign_that_other_character_sets_show_otherwise() -> None:
    assert ascii_text("a\\b ~5 ≥ 3 µm") == "a/b about 5 >= 3 um"


def test_nothing_of_the_writer_needs_the_heavy_libraries() -> None:
    heavy = "torch", "monai", "pynetdicom", "sqlalchemy"
    code = f"import sys, sr_writer.results, sr_writer.picture.gallery; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=REPOSITORY)
    assert run.stdout.strip() == "[]"


def test_the_folder_is_left_clean(tmp_path: Path, sources: list[Dataset]) -> None:
    write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["seg.dcm", "sr.dcm"]


def test_a_long_description_is_cut_so_that_the_disclaimer_is_whole() -> None:
    context = replace(CONTEXT, description="A model with a name that goes on and on for ever")
    described = context.series_description(MODEL, "segmentation", Variant(Form.SEG))
    assert described == "A model with a name tha... segmentation - not for diagnostic use"
    assert len(described) == 64
