"""The check of an RT Structure Set rejects whatever breaks a rule: each test changes one thing in a sound file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.checking.rtstruct import check_rtstruct
from sr_writer.results import write_results
from study.errors import GeometryMismatch, NonconformantObject
from tests.support.enhanced import enhanced_image, frame_headers
from tests.support.results import CONTEXT, MODEL, headers_on_disk, lungs, result_of, variants_of
from tests.support.series import axial_affine

SHAPE = (8, 24, 32)
ORDER = (3, 0, 6, 1, 7, 4, 2, 5)
"""The slice that each frame of a generated multi-frame image shows."""

Change = Callable[[Dataset], object]


@dataclass(frozen=True)
class Written:
    path: Path
    sources: list[Dataset]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("written")
    headers = headers_on_disk(folder / "in", SHAPE, attributes={"PatientName": "Müller^Jürgen"})
    values = lungs(SHAPE)
    values[3, 1, 1] = 1  # two contours on a slice
    write_results(result_of(values), headers, MODEL, CONTEXT, folder, variants_of("rtstruct"))
    return Written(folder / "rtstruct.dcm", headers)


def changed(written: Written, change: Change, folder: Path) -> Path:
    dataset = dcmread(written.path)
    change(dataset)
    dataset.save_as(folder / "changed.dcm")
    return folder / "changed.dcm"


def setting(keyword: str, value: object) -> Change:
    return lambda dataset: setattr(dataset, keyword, value)


def deleting(keyword: str) -> Change:
    return lambda dataset: delattr(dataset, keyword)


def in_item(sequence: str, change: Change, index: int = 1) -> Change:
    return lambda dataset: change(dataset[sequence][index])


def in_region(change: Change) -> Change:
    return in_item("StructureSetROISequence", change)


def in_observation(change: Change) -> Change:
    return in_item("RTROIObservationsSequence", change)


def in_drawn(change: Change) -> Change:
    return in_item("ROIContourSequence", change)


def in_contour(change: Change, index: int = 0) -> Change:
    return in_drawn(in_item("ContourSequence", change, index))


def in_image(change: Change) -> Change:
    return in_contour(in_item("ContourImageSequence", change, 0))


def in_study(change: Change) -> Change:
    return in_item("ReferencedFrameOfReferenceSequence", in_item("RTReferencedStudySequence", change, 0), 0)


def in_series(change: Change) -> Change:
    return in_study(in_item("RTReferencedSeriesSequence", change, 0))


def moving(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Change:
    def move(contour: Dataset) -> None:
        places = np.array(contour.ContourData, dtype=float).reshape(-1, 3) + np.array([x, y, z])
        contour.ContourData = [round(float(value), 4) for value in places.ravel()]

    return move


def put_points(places: Sequence[tuple[float, float]]) -> Change:
    def put(contour: Dataset) -> None:
        height = float(contour.ContourData[2])
        contour.ContourData = [value for x, y in places for value in (x, y, height)]
        contour.NumberOfContourPoints = len(places)

    return put


def repeat_contour(region: Dataset) -> None:
    region.ContourSequence.append(region.ContourSequence[0])


def swap(sequence: str) -> Change:
    def change(dataset: Dataset) -> None:
        dataset[sequence].value = list(dataset[sequence].value)[::-1]

    return change


RULES: dict[str, tuple[Change, str]] = {
    "another class": (setting("Modality", "SEG"), "Modality is not RTSTRUCT"),
    "approved": (setting("ApprovalStatus", "APPROVED"), "ApprovalStatus"),
    "no label": (setting("StructureSetLabel", ""), "StructureSetLabel"),
    "no date": (deleting("StructureSetDate"), "StructureSetDate"),
    "another patient": (setting("PatientID", "P2"), "PatientID"),
    "a re-encoded name": (setting("PatientName", "Mueller^Juergen"), "PatientName"),
    "another study": (in_study(setting("ReferencedSOPInstanceUID", "2.25.5")), "referenced as the study"),
    "no study": (
        in_item("ReferencedFrameOfReferenceSequence", deleting("RTReferencedStudySequence"), 0),
        "referenced as the study",
    ),
    "another series": (in_series(setting("SeriesInstanceUID", "2.25.5")), "another series"),
    "an image left out": (in_series(lambda s: s.ContourImageSequence.pop()), "not listed once each"),
    "an image twice": (
        in_series(lambda s: s.ContourImageSequence.append(s.ContourImageSequence[0])),
        "not listed once each",
    ),
    "an image of another class": (
        in_image(setting("ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.4")),
        "another SOP Class",
    ),
    "a gap in the numbers": (in_region(setting("ROINumber", 3)), "numbered 1, 2"),
    "no region": (setting("StructureSetROISequence", []), "numbered 1, 2"),
    "contours of no region": (in_drawn(setting("ReferencedROINumber", 3)), "ROIContourSequence is not about"),
    "contours in another order": (swap("ROIContourSequence"), "ROIContourSequence is not about"),
    "a region without contours": (lambda d: d.ROIContourSequence.pop(), "ROIContourSequence is not about"),
    "an observation of no region": (
        in_observation(setting("ReferencedROINumber", 1)),
        "RTROIObservationsSequence is not about",
    ),
    "an observation number twice": (in_observation(setting("ObservationNumber", 1)), "no numbers of their own"),
    "no observation number": (in_observation(deleting("ObservationNumber")), "no numbers of their own"),
    "a name twice": (in_region(setting("ROIName", "RIGHT LUNG")), "same name"),
    "no name": (in_region(setting("ROIName", "")), "A region lacks ROIName"),
    "drawn by hand": (in_region(setting("ROIGenerationAlgorithm", "MANUAL")), "made by an algorithm"),
    "no algorithm": (
        in_region(deleting("ROIDerivationAlgorithmIdentificationSequence")),
        "ROIDerivationAlgorithmIdentificationSequence",
    ),
    "no code": (in_observation(deleting("RTROIIdentificationCodeSequence")), "RTROIIdentificationCodeSequence"),
    "a code of another meaning": (
        in_observation(in_item("RTROIIdentificationCodeSequence", setting("CodeMeaning", "Right lung"), 0)),
        "44029006/SCT",
    ),
    "no colour": (in_drawn(deleting("ROIDisplayColor")), "Region 2 has no colour"),
    "a colour out of range": (in_drawn(setting("ROIDisplayColor", [0, 0, 256])), "Region 2 has no colour"),
    "no contour": (in_drawn(setting("ContourSequence", [])), "Region 2 has no contour"),
    "an open contour": (in_contour(setting("ContourGeometricType", "OPEN_PLANAR")), "1 contours are not closed"),
    "no image": (in_contour(setting("ContourImageSequence", [])), "do not refer to one source image"),
    "two images": (
        in_contour(lambda c: c.ContourImageSequence.append(c.ContourImageSequence[0])),
        "do not refer to one source image",
    ),
    "an unknown image": (in_image(setting("ReferencedSOPInstanceUID", "2.25.7")), "do not refer to one source image"),
    "a frame of an image that has none": (in_image(setting("ReferencedFrameNumber", 1)), "name a frame that is no"),
    "a point left out": (
        in_contour(lambda c: setattr(c, "ContourData", list(c.ContourData)[:-3])),
        "have not the points",
    ),
    "a coordinate left out": (
        in_contour(lambda c: setattr(c, "ContourData", list(c.ContourData)[:-1])),
        "have not the points",
    ),
    "two points": (in_contour(put_points([(-10, -20), (-9, -20)])), "have not the points"),
    "off the image": (in_contour(moving(x=20)), "leave their image"),
    "before the image": (in_contour(moving(y=-20)), "leave their image"),
    "between the pixels": (
        in_contour(put_points([(-9.8, -19.8), (-9.9, -19.8), (-9.9, -19.7)])),
        "enclose no pixel",
    ),
    "crossing itself": (
        in_contour(put_points([(-16, -26), (-9, -26), (-9, -20), (-16, -20), (-16, -26), (-9, -20), (-16, -20)])),
        "another area",
    ),
    "a contour twice": (in_drawn(repeat_contour), "overlap another contour"),
}


@pytest.mark.parametrize("name", sorted(RULES))
def test_rules_of_a_structure_set(written: Written, tmp_path: Path, name: str) -> None:
    change, words = RULES[name]
    with pytest.raises(NonconformantObject, match=words):
        check_rtstruct(changed(written, change, tmp_path), written.sources)


GEOMETRY: dict[str, tuple[Change, str]] = {
    "another frame of reference": (setting("FrameOfReferenceUID", "2.25.8"), "not that of the first source"),
    "another one referenced": (
        in_item("ReferencedFrameOfReferenceSequence", setting("FrameOfReferenceUID", "2.25.8"), 0),
        "not that of the first source",
    ),
    "a region in another one": (in_region(setting("ReferencedFrameOfReferenceUID", "2.25.8")), "A region is in"),
    "a contour off its plane": (in_contour(moving(z=0.01)), "Region 2: 1 contours are not in the plane"),
    "a contour on the neighbour's image": (
        lambda d: setattr(
            d.ROIContourSequence[1].ContourSequence[0],
            "ContourImageSequence",
            d.ROIContourSequence[1].ContourSequence[1].ContourImageSequence,
        ),
        "are not in the plane",
    ),
}


@pytest.mark.parametrize("name", sorted(GEOMETRY))
def test_rules_of_a_structure_sets_geometry(written: Written, tmp_path: Path, name: str) -> None:
    change, words = GEOMETRY[name]
    with pytest.raises(GeometryMismatch, match=words):
        check_rtstruct(changed(written, change, tmp_path), written.sources)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"nan", "not finite"),
        (b"1e400", "not finite"),
        (b"here", "have not the points"),
        (b"-12.345678901234567", "do not fit into decimal strings"),
    ],
)
def test_numbers_that_are_none_are_refused(written: Written, tmp_path: Path, text: bytes, words: str) -> None:
    content = written.path.read_bytes()
    contour = dcmread(written.path).ROIContourSequence[1].ContourSequence[0]
    value = bytes(contour.get_item("ContourData").value)
    rest = value.partition(b"\\")[2]
    # In place, with the length of the value as it was: the other numbers make room
    spoiled = (text + b"\\" + rest)[: len(value)].ljust(len(value))
    assert content.count(value) == 1
    (tmp_path / "changed.dcm").write_bytes(content.replace(value, spoiled))
    with pytest.raises(NonconformantObject, match=words):
        check_rtstruct(tmp_path / "changed.dcm", written.sources)


def test_a_sound_file_passes(written: Written) -> None:
    assert check_rtstruct(written.path, written.sources).Modality == "RTSTRUCT"


def test_a_frame_of_a_multi_frame_image_must_be_named(tmp_path: Path) -> None:
    frames = frame_headers(enhanced_image(np.zeros(SHAPE), axial_affine(), ORDER), ORDER, tmp_path / "in")
    write_results(result_of(lungs(SHAPE), axial_affine()), frames, MODEL, CONTEXT, tmp_path, variants_of("rtstruct"))
    case = Written(tmp_path / "rtstruct.dcm", frames)
    with pytest.raises(NonconformantObject, match="do not refer to one source image"):
        check_rtstruct(changed(case, in_image(deleting("ReferencedFrameNumber")), tmp_path), frames)
    with pytest.raises(NonconformantObject, match="name a frame that is no source"):
        check_rtstruct(changed(case, in_image(setting("ReferencedFrameNumber", 9)), tmp_path), frames)
