"""Every rule for Segmentations rejects an object that breaks it: each test changes one thing in sound files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, ImplicitVRLittleEndian, RLELossless

from sr_writer.checking.seg import check_seg
from sr_writer.checking.seg_set import check_set
from sr_writer.material import Material
from sr_writer.results import write_results
from study.errors import GeometryMismatch, NonconformantObject
from study.forms import Form, Variant
from tests.support.results import CONTEXT, MODEL, headers_on_disk, lungs, result_of

SHAPE = (9, 16, 24)
Change = Callable[[Dataset], object]
BINARY = Variant(Form.SEG)
PLAIN = Variant(Form.SEG_LABELMAP)
COMPRESSED = Variant(Form.SEG_LABELMAP, compressed=True)
PARTS = Variant(Form.SEG, most_frames=4)
VARIANTS = (BINARY, PLAIN, COMPRESSED, PARTS)


@dataclass(frozen=True)
class Written:
    folder: Path
    sources: list[Dataset]
    paths: dict[Variant, list[Path]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("written")
    sources = headers_on_disk(folder / "in", SHAPE)
    paths = {}
    for variant in VARIANTS:
        results = write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, folder / variant.key, (variant,))
        paths[variant] = [folder / variant.key / result.path for result in results]
    return Written(folder, sources, paths)


def changed(written: Written, variant: Variant, change: Change, folder: Path) -> Path:
    dataset = dcmread(written.paths[variant][0])
    change(dataset)
    dataset.save_as(folder / "changed.dcm")
    return folder / "changed.dcm"


def setting(keyword: str, value: object) -> Change:
    return lambda dataset: setattr(dataset, keyword, value)


def in_frame(change: Change, index: int = 1) -> Change:
    return lambda dataset: change(dataset.PerFrameFunctionalGroupsSequence[index])


def in_shared(change: Change) -> Change:
    return lambda dataset: change(dataset.SharedFunctionalGroupsSequence[0])


def in_pixels(change: Callable[[NDArray[np.uint8]], object]) -> Change:
    def apply(dataset: Dataset) -> None:
        pixels = np.frombuffer(dataset.PixelData, dtype=np.uint8).reshape(-1, *SHAPE[1:]).copy()
        change(pixels)
        dataset.PixelData = pixels.tobytes()

    return apply


def of_class(uid: str) -> Change:
    def apply(dataset: Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(uid)

    return apply


def set_rank(frame: Dataset, rank: int) -> None:
    content = frame.FrameContentSequence[0]
    values = content.DimensionIndexValues
    content.DimensionIndexValues = rank if isinstance(values, int) else [values[0], rank]


def source_image(frame: Dataset) -> Dataset:
    image: Dataset = frame.DerivationImageSequence[0].SourceImageSequence[0]
    return image


def position(frame: Dataset) -> Dataset:
    item: Dataset = frame.PlanePositionSequence[0]
    return item


def without_second_frame(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[1]
    size = SHAPE[1] * SHAPE[2]
    dataset.PixelData = dataset.PixelData[:size] + dataset.PixelData[2 * size :]
    dataset.NumberOfFrames = len(dataset.PerFrameFunctionalGroupsSequence)


def with_one_fragment_less(dataset: Dataset) -> None:
    fragments = list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames)))
    dataset.PixelData = encapsulate(fragments[:-1])


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.key)
def test_sound_files_pass(written: Written, variant: Variant) -> None:
    objects = [check_seg(path, written.sources) for path in written.paths[variant]]
    check_set(objects, Material(result_of(lungs(SHAPE)), written.sources, MODEL, CONTEXT), variant)


COMMON: dict[str, tuple[Change, type[Exception], str]] = {
    "a class that is none": (
        of_class("1.2.840.10008.5.1.4.1.1.2"),
        NonconformantObject,
        "SOPClassUID is not that of a Segmentation",
    ),
    "another modality": (setting("Modality", "CT"), NonconformantObject, "Modality"),
    "a type that is none": (setting("SegmentationType", "FRACTIONAL"), NonconformantObject, "SegmentationType"),
    "signed pixels": (setting("PixelRepresentation", 1), NonconformantObject, "PixelRepresentation"),
    "colours": (
        setting("PhotometricInterpretation", "PALETTE COLOR"),
        NonconformantObject,
        "PhotometricInterpretation",
    ),
    "a frame elsewhere": (
        in_frame(lambda f: setattr(position(f), "ImagePositionPatient", [-20, -30, -37])),
        GeometryMismatch,
        "Image Position of 1 frames",
    ),
    "a mirrored orientation": (
        in_shared(lambda s: setattr(s.PlaneOrientationSequence[0], "ImageOrientationPatient", [-1, 0, 0, 0, 1, 0])),
        GeometryMismatch,
        "Image Orientation",
    ),
    "another pixel spacing": (
        in_shared(lambda s: setattr(s.PixelMeasuresSequence[0], "PixelSpacing", [0.7, 0.8])),
        GeometryMismatch,
        "Pixel Spacing",
    ),
    "another slice spacing": (
        in_shared(lambda s: setattr(s.PixelMeasuresSequence[0], "SpacingBetweenSlices", "5")),
        GeometryMismatch,
        "Spacing Between Slices",
    ),
    "another frame of reference": (setting("FrameOfReferenceUID", "2.25.8"), GeometryMismatch, "Frame of Reference"),
    "a frame without position": (
        in_frame(lambda f: delattr(f, "PlanePositionSequence")),
        NonconformantObject,
        "1 frames do not refer",
    ),
    "locations not preserved": (
        in_frame(lambda f: setattr(source_image(f), "SpatialLocationsPreserved", "NO")),
        NonconformantObject,
        "1 frames do not refer",
    ),
    "an image of another study": (
        in_frame(lambda f: setattr(source_image(f), "ReferencedSOPInstanceUID", "2.25.6")),
        NonconformantObject,
        "1 references lead to no source image",
    ),
    "a lost frame": (
        lambda d: d.PerFrameFunctionalGroupsSequence.pop(),
        NonconformantObject,
        "Number of Frames is",
    ),
    "a rank that another slice has": (
        in_frame(lambda f: set_rank(f, 1)),
        NonconformantObject,
        "Dimension Index Values of [12] frames are not",
    ),
    "a rank that is not the next": (
        in_frame(lambda f: set_rank(f, 99)),
        NonconformantObject,
        "do not count the slices",
    ),
    "frames without ranks": (
        in_frame(lambda f: delattr(f, "FrameContentSequence")),
        NonconformantObject,
        "do not count the slices",
    ),
    "lossy pixels": (setting("LossyImageCompression", "01"), NonconformantObject, "Lossy Image Compression"),
    "a segment without tracking": (
        lambda d: setattr(d.SegmentSequence[0], "TrackingID", ""),
        NonconformantObject,
        "lacks TrackingID",
    ),
    "a gap in the numbers": (
        lambda d: setattr(d.SegmentSequence[1], "SegmentNumber", 3),
        NonconformantObject,
        "numbered 1, 2",
    ),
    "too many bits": (setting("BitsStored", 12), NonconformantObject, "BitsStored"),
}


@pytest.mark.parametrize("variant", [BINARY, COMPRESSED], ids=lambda variant: variant.key)
@pytest.mark.parametrize("name", sorted(COMMON))
def test_rules_of_both_types(written: Written, tmp_path: Path, variant: Variant, name: str) -> None:
    change, error, words = COMMON[name]
    with pytest.raises(error, match=words):
        check_seg(changed(written, variant, change, tmp_path), written.sources)


def add_segment(dataset: Dataset) -> None:
    item = Dataset()
    item.update(dataset.SegmentSequence[0])
    item["SegmentNumber"] = Dataset.from_json({"00620004": {"vr": "US", "Value": [3]}})["SegmentNumber"]
    item["TrackingUID"] = Dataset.from_json({"00620021": {"vr": "UI", "Value": ["2.25.99"]}})["TrackingUID"]
    dataset.SegmentSequence.insert(2, item)


def identify(frame: Dataset) -> None:
    item = Dataset()
    item.ReferencedSegmentNumber = 1
    frame.SegmentIdentificationSequence = [item]


LABEL_MAP: dict[str, tuple[Change, str]] = {
    "no padding value": (lambda d: delattr(d, "PixelPaddingValue"), "PixelPaddingValue is not 0"),
    "the other class": (of_class("1.2.840.10008.5.1.4.1.1.66.4"), "SegmentationType is not BINARY"),
    "a frame that names a segment": (in_frame(identify), "1 of 7 frames name a segment"),
    "no background": (lambda d: d.SegmentSequence.pop(), "background is not described"),
    "the background first": (
        lambda d: d.SegmentSequence.insert(0, d.SegmentSequence.pop()),
        "not after all segments",
    ),
    "a background that is something else": (
        lambda d: setattr(d.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0], "CodeValue", "85756007"),
        "background is not described",
    ),
    "a value that is no segment": (in_pixels(lambda p: p.__setitem__((2, 3, 3), 7)), "exactly the values"),
    "a segment without a pixel": (add_segment, "exactly the values"),
    "an empty first frame": (in_pixels(lambda p: p.__setitem__(0, 0)), "1 frames are empty at an end"),
    "an empty last frame": (in_pixels(lambda p: p.__setitem__(-1, 0)), "1 frames are empty at an end"),
    "a gap": (without_second_frame, "without a frame between"),
    "segments that overlap": (setting("SegmentsOverlap", "YES"), "Segments Overlap is YES"),
    "short pixel data": (lambda d: setattr(d, "PixelData", d.PixelData[:-2]), "Pixel Data has"),
}


@pytest.mark.parametrize("name", sorted(LABEL_MAP))
def test_rules_of_a_label_map(written: Written, tmp_path: Path, name: str) -> None:
    change, words = LABEL_MAP[name]
    with pytest.raises(NonconformantObject, match=words):
        check_seg(changed(written, PLAIN, change, tmp_path), written.sources)


def test_an_empty_frame_between_others_is_none_to_complain_of(written: Written, tmp_path: Path) -> None:
    check_seg(changed(written, PLAIN, in_pixels(lambda p: p.__setitem__(3, 0)), tmp_path), written.sources)


def test_an_image_twice_is_refused(written: Written, tmp_path: Path) -> None:
    def twice(dataset: Dataset) -> None:
        frames = dataset.PerFrameFunctionalGroupsSequence
        frames[1] = frames[0]

    with pytest.raises(NonconformantObject, match="same segment on the same image"):
        check_seg(changed(written, PLAIN, twice, tmp_path), written.sources)


def test_a_lost_fragment_is_refused(written: Written, tmp_path: Path) -> None:
    path = changed(written, COMPRESSED, with_one_fragment_less, tmp_path)
    with pytest.raises(NonconformantObject, match="6 fragments for 7 frames"):
        check_seg(path, written.sources)


def test_compressed_bits_are_refused(written: Written, tmp_path: Path) -> None:
    def compress(dataset: Dataset) -> None:
        dataset.PixelData = encapsulate([b"ab"] * int(dataset.NumberOfFrames))
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = RLELossless

    with pytest.raises(NonconformantObject, match="Single bits are compressed"):
        check_seg(changed(written, BINARY, compress, tmp_path), written.sources)


def test_a_padding_value_in_single_bits_is_refused(written: Written, tmp_path: Path) -> None:
    def pad(dataset: Dataset) -> None:
        dataset.add_new("PixelPaddingValue", "US", 0)

    with pytest.raises(NonconformantObject, match="PixelPaddingValue is not None"):
        check_seg(changed(written, BINARY, pad, tmp_path), written.sources)


def test_another_transfer_syntax_is_refused(written: Written, tmp_path: Path) -> None:
    dataset = dcmread(written.paths[BINARY][0])
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(tmp_path / "changed.dcm", implicit_vr=True)
    with pytest.raises(NonconformantObject, match="neither in Explicit VR Little Endian nor in RLE Lossless"):
        check_seg(tmp_path / "changed.dcm", written.sources)


def test_a_lossy_source_makes_a_lossy_segmentation(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", SHAPE, attributes={"LossyImageCompression": "01"})
    (result,) = write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path, (BINARY,))
    assert dcmread(tmp_path / result.path).LossyImageCompression == "01"


def flip_a_bit(objects: list[Dataset]) -> None:
    content = bytearray(objects[0].PixelData)
    content[next(place for place, value in enumerate(content) if value)] ^= 1
    objects[0].PixelData = bytes(content)


def swap_segments(objects: list[Dataset]) -> None:
    first, second = objects[0].SegmentSequence
    first.TrackingUID, second.TrackingUID = second.TrackingUID, first.TrackingUID


def silence(objects: list[Dataset]) -> None:
    for each in objects:
        for item in each.SegmentSequence:
            item.pop("SegmentDescription", None)


def rename(objects: list[Dataset]) -> None:
    objects[0].SegmentSequence[0].TrackingUID = "2.25.1"


SETS: dict[str, tuple[Variant, Callable[[list[Dataset]], object], str]] = {
    "a lost part": (PARTS, lambda each: each.pop(), "a segment is lost"),
    "no object at all": (BINARY, lambda each: each.clear(), "a segment is lost"),
    "a part twice": (PARTS, lambda each: each.append(each[0]), "not numbered 1, 2"),
    "the same UID twice": (
        PARTS,
        lambda each: setattr(each[1], "SOPInstanceUID", each[0].SOPInstanceUID),
        "same SOP Instance UID",
    ),
    "another series": (PARTS, lambda each: setattr(each[1], "SeriesInstanceUID", "2.25.1"), "not in one series"),
    "the same voxels twice": (PARTS, lambda each: each.append(each[0]), "on [1-9]\\d* it is there twice"),
    "a cut without words": (PARTS, silence, "do not say so"),
    "one voxel": (BINARY, flip_a_bit, "on 1 it is another"),
    "the segments swapped": (BINARY, swap_segments, "on [1-9]\\d* it is another"),
    "a segment that nobody found": (BINARY, rename, "a segment is lost"),
}


@pytest.mark.parametrize("name", sorted(SETS))
def test_rules_of_the_objects_together(written: Written, name: str) -> None:
    variant, change, words = SETS[name]
    objects: list[Dataset] = [dcmread(path) for path in written.paths[variant]]
    change(objects)
    with pytest.raises(NonconformantObject, match=words):
        check_set(objects, material_of(written.sources), variant)


def material_of(sources: Sequence[Dataset]) -> Material:
    return Material(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT)


def test_more_frames_than_a_destination_takes_are_refused(written: Written) -> None:
    objects = [dcmread(path) for path in written.paths[PARTS]]
    with pytest.raises(NonconformantObject, match="more than 3 frames"):
        check_set(objects, material_of(written.sources), replace(PARTS, most_frames=3))


def test_a_label_map_that_lost_a_voxel_is_refused(written: Written) -> None:
    (path,) = written.paths[PLAIN]
    seg = dcmread(path)
    in_pixels(lambda p: p.__setitem__((2, *np.argwhere(p[2])[0]), 0))(seg)
    with pytest.raises(NonconformantObject, match="on 1 it is another"):
        check_set([seg], material_of(written.sources), PLAIN)
