"""The words and numbers of each kind of report are kept in tests/golden, as another program prints them."""

from __future__ import annotations

import difflib
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer import codes as report_codes
from sr_writer.notices import write_notices
from sr_writer.reading.content_tree import children
from sr_writer.reading.report import groups_of, sentences_of
from sr_writer.results import write_results
from study import codes
from study.errors import Reason
from study.forms import Form, Variant
from study.imaging import Finding, ResultSet, Segment
from tests.support.peers import DCMTK_ENVIRONMENT, REPOSITORY, program
from tests.support.results import (
    ABNORMAL,
    CONTEXT,
    MODEL,
    NEOPLASM,
    SEGMENTS,
    assessments,
    headers_on_disk,
    lungs,
    result_of,
    sides,
    variants_of,
)

GOLDEN: Final = REPOSITORY / "tests" / "golden"
RENEWING: Final = bool(os.environ.get("HILUM_RENEW_GOLDEN"))
SHAPE = (5, 14, 20)

NODULE = Segment(3, "Nodule", ABNORMAL, NEOPLASM, region=codes.LEFT_LUNG)
STONE = Finding("stone", "Calcification", ABNORMAL, codes.BOTH_LUNGS, (), detected=False)
GAP = Reason(
    "MissingSlices",
    "Slice gap of 7.00 mm between the slices at 12.00 mm and 19.00 mm; the others are 2.00 mm apart.",
    {"gap_mm": 7.0, "missing": 3},
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    sources = headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)
    for number, source in enumerate(sources, 1):
        source.StudyInstanceUID, source.SeriesInstanceUID, source.FrameOfReferenceUID = "2.25.11", "2.25.12", "2.25.13"
        source.SOPInstanceUID = f"2.25.1{number:03d}"
    return sources


def outlined() -> ResultSet:
    """Return a result with regions, one that is not there, a finding that is not, and a classification."""
    result = result_of(lungs(SHAPE), segments=(*SEGMENTS, NODULE))
    return replace(result, findings=(*result.findings, STONE), assessments=assessments()[:2])


def of(form: str, result: ResultSet, number: int = 0) -> Callable[[list[Dataset], Path], Path]:
    def make(sources: list[Dataset], folder: Path) -> Path:
        forms = ("seg", form) if result.label_map is not None else (form,)
        written = write_results(result, sources, MODEL, CONTEXT, folder, variants_of(*forms))
        return folder / [each.path for each in written if each.form == form][number]

    return make


def refused(*, failed: bool) -> Callable[[list[Dataset], Path], Path]:
    def make(sources: list[Dataset], folder: Path) -> Path:
        (notice,) = write_notices((GAP,), sources, MODEL, CONTEXT, folder, [Variant(Form.REFUSAL)], failed=failed)
        return folder / notice.path

    return make


WITHOUT_REGION = ResultSet(None, (*sides(), STONE), ("The images came from a phantom.",), assessments=assessments())
KINDS: dict[str, Callable[[list[Dataset], Path], Path]] = {
    "sr": of("sr", outlined()),
    "sr_words": of("sr", outlined(), 1),
    "sr_segments": of("sr_segments", outlined()),
    "sr_comprehensive": of("sr_comprehensive", outlined()),
    "sr_without_region": of("sr", WITHOUT_REGION),
    "sr_segments_without_region": of("sr_segments", WITHOUT_REGION),
    "refusal": refused(failed=False),
    "failure": refused(failed=True),
}


def dump(report: Path) -> str:
    """Return what dsrdump prints of a report, everything in full."""
    dsrdump = program("dsrdump", package="dcmtk")
    run = subprocess.run(
        [dsrdump, "+Pl", "+Pc", "+Pt", report], capture_output=True, text=True, check=True, env=DCMTK_ENVIRONMENT
    )
    assert run.stderr == ""
    return run.stdout


def changes(kind: str, said: str) -> str:
    """Return how a report differs from the kept one; "" where it does not."""
    kept = (GOLDEN / f"{kind}.txt").read_text()
    return "\n".join(difflib.unified_diff(kept.splitlines(), said.splitlines(), "kept", "now", lineterm=""))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_report_says_what_is_kept(kind: str, sources: list[Dataset], tmp_path: Path) -> None:
    said = dump(KINDS[kind](sources, tmp_path))
    if RENEWING:
        (GOLDEN / f"{kind}.txt").write_text(said)
        pytest.fail(f"tests/golden/{kind}.txt is renewed, as HILUM_RENEW_GOLDEN asks; read its change and run again")
    assert changes(kind, said) == ""


def test_no_kept_report_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(KINDS)


def change_a_comment(document: Dataset) -> None:
    comments = [item for group in groups_of(document) for item in children(group, report_codes.COMMENT)]
    comments[0].TextValue = str(comments[0].TextValue).replace("all", "some", 1)


def change_a_word(document: Dataset) -> None:
    said = sentences_of(document)[0]
    said.TextValue = str(said.TextValue).replace("nothing", "something")


def change_a_number(document: Dataset) -> None:
    number = next(children(groups_of(document)[0], value_type="NUM"))
    number.MeasuredValueSequence[0].NumericValue = "1700.4"


def change_a_reason(document: Dataset) -> None:
    next(children(document, report_codes.REASON)).TextValue = GAP.words


def change_a_description(document: Dataset) -> None:
    document.SeriesDescription = "Lung CT measurements"


@pytest.mark.skipif(RENEWING, reason="the files are being renewed")
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("sr", change_a_comment),
        ("sr", change_a_number),
        ("sr", change_a_description),
        ("sr_words", change_a_word),
        ("refusal", change_a_reason),
    ],
)
def test_a_changed_word_is_seen(
    kind: str, change: Callable[[Dataset], None], sources: list[Dataset], tmp_path: Path
) -> None:
    document = dcmread(KINDS[kind](sources, tmp_path))
    change(document)
    document.save_as(tmp_path / "changed.dcm")
    assert changes(kind, dump(tmp_path / "changed.dcm"))
