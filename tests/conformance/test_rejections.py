"""Key Object Selections that reject results, held against validators that others wrote."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.files import save
from sr_writer.ko.rejection import Rejection, write_rejection
from sr_writer.results import write_results
from tests.support.identities import IDENTITIES
from tests.support.peers import program
from tests.support.results import CONTEXT, MODEL, headers_on_disk, lungs, result_of, variants_of
from tests.support.validators import dcentvfy_errors, dciodvfy_errors, sr_validator_errors

SHAPE = (8, 24, 32)
KINDS = {"quality": Rejection("Left and right are confused."), "safety": Rejection("Another patient's.", safety=True)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of some strange patient in several forms, and a rejection of each kind, as files."""
    folder = tmp_path_factory.mktemp("rejections")
    strange = IDENTITIES["Cyrillic, another time zone"]
    sources = headers_on_disk(folder / "in", SHAPE, attributes=strange)
    made = write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, folder, variants_of("seg", "rtstruct", "sr"))
    rejected: list[Dataset] = [dcmread(folder / each.path, stop_before_pixels=True) for each in made]
    for name, rejection in KINDS.items():
        save(write_rejection(rejection, rejected, MODEL, CONTEXT), folder / f"{name}.dcm")
    return folder


@pytest.mark.parametrize("name", sorted(KINDS))
def test_validators_find_no_error(folder: Path, name: str) -> None:
    path = folder / f"{name}.dcm"
    assert dciodvfy_errors(path, "KeyObjectSelectionDocument") == []
    assert sr_validator_errors(path, "TID_2010") == []


def test_they_are_of_the_patient_and_study_of_what_they_reject(folder: Path) -> None:
    files = sorted(folder.glob("*.dcm"))
    assert len(files) == 5
    assert dcentvfy_errors(*files) == []


def test_dsrdump_reads_what_they_reject_and_why(folder: Path) -> None:
    dsrdump = program("dsrdump", package="dcmtk")
    command = [dsrdump, "+Pc", str(folder / "quality.dcm")]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    assert '"Rejected for Quality Reasons")=CONTINUOUS' in run.stdout
    assert '"Key Object Description")="Left and right are confused."' in run.stdout
    assert run.stdout.count("<contains IMAGE:=") == 1
    assert run.stdout.count("<contains COMPOSITE:=") == 2
