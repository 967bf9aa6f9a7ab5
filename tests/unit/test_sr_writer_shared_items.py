"""Sequences that are decoded here say what pydicom reads in them, equal ones once; what is unusual is left to it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer.checking.rules import own_items
from sr_writer.reading.frames import DERIVATION, FRAME_CONTENT, frames_of, groups_of_frame, segment_number, shown_by
from sr_writer.reading.shared_items import share_items
from sr_writer.results import write_results
from sr_writer.source.carrying import set_element, tag_of
from tests.support.results import CONTEXT, MODEL, headers_on_disk, lungs, result_of, variants_of

SHAPE = (9, 16, 24)
FRAMES = tag_of("PerFrameFunctionalGroupsSequence")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("written")
    sources = headers_on_disk(folder / "in", SHAPE, attributes={"RequestAttributesSequence": [requested()]})
    results = write_results(
        result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, folder, variants_of("seg", "seg_labelmap", "sr")
    )
    return {result.form: folder / result.path for result in results}


def requested() -> Dataset:
    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID = "7", "8"
    return item


def changed(path: Path, change: Callable[[Dataset], object], folder: Path) -> Path:
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(folder / "changed.dcm")
    return folder / "changed.dcm"


def encoded_sequences(dataset: Dataset) -> Iterator[RawDataElement]:
    """Yield the sequences that stand encoded, at any depth."""
    for element in list(dataset.values()):
        if isinstance(element, RawDataElement) and element.VR == "SQ":
            yield element
        elif element.VR == "SQ" and not isinstance(element, RawDataElement):
            for item in element.value:
                yield from encoded_sequences(item)


@pytest.mark.parametrize("form", ["seg", "seg_labelmap", "sr"])
def test_what_is_shared_is_what_pydicom_reads(files: dict[str, Path], form: str) -> None:
    shared, plain = dcmread(files[form]), dcmread(files[form])
    share_items(shared, (FRAME_CONTENT,))
    assert {element.tag for element in encoded_sequences(shared)} <= {FRAME_CONTENT}
    assert len(list(own_items(shared))) < len(list(own_items(plain))), "nothing is shared"
    assert shared.to_json_dict() == plain.to_json_dict()


def test_frames_of_one_slice_share_what_is_said_of_it(files: dict[str, Path]) -> None:
    segmentation, plain = dcmread(files["seg"]), dcmread(files["seg"])
    frames = frames_of(segmentation)
    shown = shown_by(segmentation, frames)
    groups = [groups_of_frame(frame)[DERIVATION] for frame in frames]
    assert len({id(group) for group in groups}) == len({image for _, image in shown}) < len(frames)
    expected = [
        (segment_number(plain, frame), str(frame.DerivationImageSequence[0].SourceImageSequence[0][0x00081155].value))
        for frame in plain.PerFrameFunctionalGroupsSequence
    ]
    assert [(number, image[0]) for number, image in shown] == expected


def of_undefined_length(dataset: Dataset) -> None:
    dataset[FRAMES].is_undefined_length = True


def with_items_of_undefined_length(dataset: Dataset) -> None:
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.is_undefined_length_sequence_item = True


def with_a_character_set_of_its_own(dataset: Dataset) -> None:
    item = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    item.SpecificCharacterSet = "ISO_IR 192"


@pytest.mark.parametrize(
    "change", [of_undefined_length, with_items_of_undefined_length, with_a_character_set_of_its_own]
)
def test_what_is_encoded_otherwise_is_left_to_pydicom(
    files: dict[str, Path], change: Callable[[Dataset], object], tmp_path: Path
) -> None:
    path = changed(files["seg"], change, tmp_path)
    segmentation, plain = dcmread(path), dcmread(path)
    assert shown_by(segmentation, frames_of(segmentation)) == shown_by(plain, plain.PerFrameFunctionalGroupsSequence)
    assert segmentation.to_json_dict() == plain.to_json_dict()


@pytest.mark.parametrize(
    "content",
    [
        b"\xfe\xff\x00\xe0\x10\x00\x00\x00",  # an item that is longer than its sequence
        b"\xfe\xff\x00\xe0\x08\x00\x00\x00\x08\x00\x05\x01SQ\x00",  # ... whose element has no length
        b"\xfe\xff\x00\xe0\x08\x00\x00\x00\x08\x00\x18\x00UI\x40\x00",  # ... or is longer than it
        b"\xfe\xff\x00\xe0\x08\x00\x00\x00\x08\x00\x18\x00??\x00\x00\x00\x00",  # ... or has no VR
        b"\x08\x00\x18\x00UI\x00\x00",  # no item
        b"\xfe\xff",
    ],
)
def test_bytes_that_are_no_items_stay_as_they_are(content: bytes) -> None:
    dataset = Dataset()
    element = RawDataElement(FRAMES, "SQ", len(content), content, 0, False, True)
    set_element(dataset, element)
    share_items(dataset)
    assert list(dataset.values()) == [element]


def test_sequences_that_are_nested_very_deep_stay_as_they_are() -> None:
    content = b""
    for _ in range(5000):
        content = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content
        content = b"\x08\x00\x18\x11SQ\x00\x00" + struct.pack("<I", len(content)) + content
    content = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content
    dataset = Dataset()
    element = RawDataElement(FRAMES, "SQ", len(content), content, 0, False, True)
    set_element(dataset, element)
    share_items(dataset)
    assert list(dataset.values()) == [element]


def test_an_empty_sequence_has_no_items() -> None:
    dataset = Dataset()
    set_element(dataset, RawDataElement(FRAMES, "SQ", 0, b"", 0, False, True))
    share_items(dataset)
    assert dataset.PerFrameFunctionalGroupsSequence == ItemSequence()
