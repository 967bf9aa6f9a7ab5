"""A result belongs to the patient of its images: proven byte for byte, and by readers that others wrote."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword

from hilum.phantom import write_phantom_study
from sr_writer.files import save
from sr_writer.ko.rejection import Rejection, write_rejection
from sr_writer.notices import write_notices
from sr_writer.results import write_results
from study.errors import Reason
from study.forms import Form, Variant, Wish, settle
from tests.support.identities import IDENTITIES, JAPANESE, UNDECLARED, strange, undeclare
from tests.support.mutations import SHAPE, picture
from tests.support.node import Node, running
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.peers import DCMTK_ENVIRONMENT, program
from tests.support.results import CONTEXT, MODEL, lungs, result_of
from tests.support.series import ct_series, save_series
from tests.support.validators import dciodvfy_errors

IODS = {
    Form.SEG: "Segmentation",
    Form.RTSTRUCT: "RTStructureSet",
    Form.SR: "Comprehensive3DSR",
    Form.SR_SEGMENTS: "Comprehensive3DSR",
    Form.SR_COMPREHENSIVE: "ComprehensiveSR",
    Form.SC: "SCImage",
    Form.PDF: "EncapsulatedPDF",
    Form.REFUSAL: "BasicTextSR",
    Form.REJECTION: "KeyObjectSelectionDocument",
}
"""What dciodvfy calls the objects; it knows no label map."""

WHOSE = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "OtherPatientIDsSequence", "OtherPatientNames"),
    *("PatientComments", "AdditionalPatientHistory", "MedicalAlerts"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "TimezoneOffsetFromUTC", "SpecificCharacterSet"),
)
"""What says whose and which study an object is, and what the identities of the table say besides."""
EMPTY_WHERE_ABSENT = {"PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"}

BY_BYTES = {
    JAPANESE,  # DCMTK asks the C library for a converter that Debian's does not have
    UNDECLARED,
}
"""Identities that dcmdump can not convert to UTF-8."""

_LINE = re.compile(r"( *)\(([0-9a-f]{4}),([0-9a-f]{4})\) (\w\w) (.*)#[ 0-9,]+\w*")


_SEQUENCES = re.compile(r"</\S*/")
"""Where an element stands, in what dciodvfy says."""


@dataclass(frozen=True)
class Case:
    """Sound results of every form for images of one identity."""

    name: str
    source: Path
    results: dict[Form, Path]


@pytest.fixture(scope="module", params=sorted(IDENTITIES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder, name = tmp_path_factory.mktemp("identity"), str(request.param)
    images = strange(ct_series(np.zeros(SHAPE)), name)
    paths = save_series(images, folder / "in")
    if name == UNDECLARED:
        undeclare(folder / "in")
    sources = [dcmread(path, stop_before_pixels=True) for path in paths]
    result, results = result_of(lungs(SHAPE)), {}
    for forms in (list(IODS), [Form.SEG_LABELMAP]):
        variants = settle(Wish("pacs", tuple(forms), most_images=1), {}).variants
        into = folder / forms[-1]
        for made in write_results(result, sources, MODEL, CONTEXT, into, variants, pixels=picture):
            results[Form(made.form)] = into / made.path
    tilted, variant = Reason("GantryTilt", "The gantry was tilted."), Variant(Form.REFUSAL)
    (notice,) = write_notices([tilted], sources, MODEL, CONTEXT, folder, [variant], failed=False)
    taken_back = [dcmread(path, stop_before_pixels=True) for path in results.values()]
    save(write_rejection(Rejection("Sides are confused."), taken_back, MODEL, CONTEXT), folder / "rejection.dcm")
    others = {Form.REFUSAL: folder / notice.path, Form.REJECTION: folder / "rejection.dcm"}
    return Case(name, paths[0], results | others)


def dumped(path: Path, *options: str) -> dict[str, list[str]]:
    """Return what dcmdump says of the elements of `WHOSE`, by keyword: the value, and a line for each below.

    Private elements are passed over, and so are the lengths of items, which differ with them.
    """
    command = [program("dcmdump", package="dcmtk"), "-q", "+L", "-M", "+R", "64", *options, str(path)]
    run = subprocess.run(command, check=True, capture_output=True, env=DCMTK_ENVIRONMENT)
    wanted = {f"{tag_for_keyword(keyword):08x}": keyword for keyword in WHOSE}
    found: dict[str, list[str]] = {}
    keyword: str | None = None
    for line in run.stdout.decode("utf-8" if options else "latin-1").splitlines():
        element = _LINE.fullmatch(line)
        if element is None:
            continue
        below, group, number, vr, value = element.groups()
        keyword = keyword if below else wanted.get(group + number)
        if keyword and int(group, 16) % 2 == 0:
            said = "" if vr in ("SQ", "na") else value.strip()
            found.setdefault(keyword, []).append(f"{below}{group},{number} {said}")
    return found


def expected(source: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return what a result must say: what its source says, and that there is nothing where that lacks what is asked."""
    empty = {
        keyword: [
            f"{tag_for_keyword(keyword):08x}"[:4]
            + ","
            + f"{tag_for_keyword(keyword):08x}"[4:]
            + " (no value available)"
        ]
        for keyword in EMPTY_WHERE_ABSENT - set(source)
    }
    return source | empty


@pytest.mark.parametrize("form", list(Form))
def test_every_form_says_whose_it_is_as_its_source_does(case: Case, form: Form) -> None:
    options = () if case.name in BY_BYTES else ("+U8",)
    source, result = dumped(case.source, *options), dumped(case.results[form], *options)
    assert {"PatientName", "PatientID", "StudyInstanceUID", "OtherPatientIDsSequence"} <= set(source)
    assert len(source["OtherPatientIDsSequence"]) >= 5
    assert result == expected(source)
    if options:
        name = IDENTITIES[case.name]["PatientName"]
        assert result["PatientName"] == [f"0010,0010 [{name}]"]


@pytest.mark.parametrize("form", list(IODS))
def test_no_form_has_an_error_that_its_source_has_not(case: Case, form: Form) -> None:
    # What is carried over as it is keeps its faults; a request stands in another sequence there
    of_source, of_result = dciodvfy_errors(case.source, "CTImage"), dciodvfy_errors(case.results[form], IODS[form])
    assert {_SEQUENCES.sub("</", error) for error in of_result} <= {_SEQUENCES.sub("</", error) for error in of_source}


PRIVATE = (b"ACME 1.0", b"RIS 2.0", b"nobody's business")


def test_private_elements_stay_behind(case: Case) -> None:
    assert all(mark in case.source.read_bytes() for mark in PRIVATE)
    for path in case.results.values():
        assert not any(mark in path.read_bytes() for mark in PRIVATE), path.name


def test_the_same_images_give_the_same_bytes(case: Case, tmp_path: Path) -> None:
    paths = sorted(case.source.parent.iterdir())
    sources = [dcmread(path, stop_before_pixels=True) for path in paths]
    for made in write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path):
        if Form(made.form) is Form.SR:
            assert (tmp_path / made.path).read_bytes() == case.results[Form.SR].read_bytes()


THROUGH_THE_NODE = (JAPANESE, UNDECLARED)
SENT = ["seg", "rtstruct", "sr", "pdf"]
SLICES = 24


def whose(orthanc: Orthanc, instance: str) -> dict[str, Any]:
    """Return what the archive's REST interface says of an instance, as it decodes it."""
    tags = orthanc.get(f"/instances/{instance}/simplified-tags")
    found = {keyword: tags[keyword] for keyword in WHOSE if keyword in tags}
    for item in found.get("OtherPatientIDsSequence", ()):
        for private in [keyword for keyword in item if keyword.startswith("Unknown")]:
            del item[private]
    return found


def test_identities_arrive_in_an_archive_as_they_left_the_modality(tmp_path: Path) -> None:
    program("storescu", package="dcmtk")
    folders = [tmp_path / str(index) for index, _ in enumerate(THROUGH_THE_NODE)]
    for folder, name in zip(folders, THROUGH_THE_NODE, strict=True):
        paths = write_phantom_study(folder, datetime.now(UTC), SLICES)
        save_series(strange([dcmread(path) for path in paths], name), folder / "strange")
        for path in paths:
            path.unlink()
        if name == UNDECLARED:
            undeclare(folder / "strange")
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        address = {"host": "127.0.0.1", "port": orthanc.dicom_port}
        node = Node(tmp_path / "node", [{"name": "pacs", "ae_title": "PACS", "results": SENT, **address}])
        with running(node):
            for folder in folders:
                node.send(folder)
                node.send(folder, port=orthanc.dicom_port, called="PACS")
            records = node.wait_for_state("DELIVERED", studies=2)
        for record in records:
            uids = {result.sop_instance_uid for _, result in record.results}
            found = orthanc.instances(StudyInstanceUID=record.summary.study_instance_uid)
            results = [one["ID"] for one in found if one["MainDicomTags"]["SOPInstanceUID"] in uids]
            images = [one["ID"] for one in found if one["ID"] not in results]
            assert (len(results), len(images)) == (len(SENT), SLICES)
            source = whose(orthanc, images[0])
            assert source["PatientID"]
            for result in results:
                said = whose(orthanc, result)
                assert said == source | dict.fromkeys(EMPTY_WHERE_ABSENT - set(source), "")
            # Orthanc reads Latin-1 where nothing is declared; it knows no code extensions
            japanese = record.summary.study_instance_uid == IDENTITIES[JAPANESE]["StudyInstanceUID"]
            assert japanese or source["PatientName"] == IDENTITIES[UNDECLARED]["PatientName"]
