from __future__ import annotations

import dataclasses
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from inference.decoders import decode_frame
from inference.decoding import DecodedSeries, read_image, read_series
from study.errors import SourceUnreadable, StudyRefused, UndecodablePixelData, UnsupportedTransferSyntax
from study.geometry import assess
from study.headers import InstanceHeader
from tests.support.enhanced import enhanced_image
from tests.support.peers import program, shared
from tests.support.series import axial_affine, ct_series, save_series

VOXELS: NDArray[Any] = np.random.default_rng(3).integers(-1024, 2000, (4, 48, 40))
LOSSLESS = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5",
)


def headers_of(paths: Sequence[Path]) -> list[InstanceHeader]:
    headers = []
    for path in paths:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        headers.append(InstanceHeader.of(dataset, dataset.file_meta.TransferSyntaxUID))
    return headers


def decode(datasets: list[Dataset], folder: Path, threads: int = 2) -> DecodedSeries:
    paths = save_series(datasets, folder)
    return read_series(paths, headers_of(paths), axial_affine(), threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_slices_land_in_order_in_hounsfield_units(tmp_path: Path, threads: int) -> None:
    decoded = decode(ct_series(VOXELS), tmp_path, threads=threads)
    np.testing.assert_array_equal(decoded.volume.voxels, VOXELS)
    assert decoded.volume.voxels.dtype == np.float32
    assert decoded.volume.padding is None
    assert [dataset.InstanceNumber for dataset in decoded.datasets] == [1, 2, 3, 4]
    assert decoded.volume.sop_instance_uids == tuple(dataset.SOPInstanceUID for dataset in decoded.datasets)
    assert not any("PixelData" in dataset for dataset in decoded.datasets)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_slices_decode_alike(tmp_path: Path, syntax: UID) -> None:
    datasets = ct_series(VOXELS)
    for dataset in datasets:
        dataset.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(decode(datasets, tmp_path).volume.voxels, VOXELS)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_native_slices_decode_alike(tmp_path: Path, syntax: UID) -> None:
    datasets = ct_series(VOXELS)
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(decode(datasets, tmp_path).volume.voxels, VOXELS)


def test_one_image_in_every_lossless_syntax_decodes_alike() -> None:
    folder = shared("data", "ct_transfer_syntaxes")
    pixels = {}
    for path in sorted(folder.glob("CTImage.dcm_*")):
        header = headers_of([path])[0]
        if header.transfer_syntax_uid in LOSSLESS:
            pixels[header.transfer_syntax_uid] = read_series([path], [header], np.eye(4)).volume.voxels
    assert len(pixels) >= 7
    reference = pixels["1.2.840.10008.1.2.1"]
    assert np.ptp(reference) > 1000
    for syntax, voxels in pixels.items():
        np.testing.assert_array_equal(voxels, reference, err_msg=syntax)


LOSS_HU = {
    # Largest and mean difference from the lossless image; the last two store 12 and 8 bits of it.
    "1.2.840.10008.1.2.4.91": (5.0, 0.75),
    "1.2.840.10008.1.2.4.81": (1.0, 0.75),
    "1.2.840.10008.1.2.4.51": (36.0, 4.5),
    "1.2.840.10008.1.2.4.53": (36.0, 4.5),
    "1.2.840.10008.1.2.4.55": (36.0, 4.5),
    "1.2.840.10008.1.2.4.50": (65.0, 18.0),
}


def test_one_image_in_every_lossy_syntax_decodes_within_its_loss() -> None:
    folder = shared("data", "ct_transfer_syntaxes")
    original = folder / "CTImage.dcm"
    reference = read_series([original], headers_of([original]), np.eye(4)).volume.voxels
    inside = reference > -1100  # what lies outside of the circle was clipped before it was compressed
    seen = set()
    for path in sorted(folder.glob("CTImage.dcm_*")):
        (header,) = headers_of([path])
        if header.transfer_syntax_uid in LOSSLESS:
            continue
        found = read_series([path], [header], np.eye(4)).volume.voxels
        difference = np.abs(found - reference)[inside]
        largest, mean = LOSS_HU[header.transfer_syntax_uid]
        assert difference.max() <= largest, path.name
        assert difference.mean() <= mean, path.name
        assert difference.max() > 0, path.name
        seen.add(header.transfer_syntax_uid)
    assert seen == set(LOSS_HU)


def test_twelve_bit_jpeg_decodes_as_dcmtk_decodes_it(tmp_path: Path) -> None:
    (path,) = shared("data", "ct_transfer_syntaxes").glob("CTImage.dcm_JPEGProcess2_4*")
    plain = tmp_path / "plain.dcm"
    subprocess.run([program("dcmdjpeg", package="dcmtk"), str(path), str(plain)], check=True)
    ours, theirs = (read_series([file], headers_of([file]), np.eye(4)).volume.voxels for file in (path, plain))
    assert np.ptp(ours) > 1000
    assert np.abs(ours - theirs).max() <= 2.01  # one step of the stored values: the two transforms round apart


def test_a_syntax_that_no_decoder_reads_is_refused_by_name() -> None:
    (path,) = shared("data", "ct_transfer_syntaxes").glob("CTImage.dcm")
    (header,) = headers_of([path])
    other = dataclasses.replace(header, transfer_syntax_uid=str(MPEG2MPML))
    with pytest.raises(UnsupportedTransferSyntax, match="MPEG2"):
        read_series([path], [other], np.eye(4))


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_frames_of_one_image_give_the_volume_of_their_classic_twins(tmp_path: Path, modality: str) -> None:
    order = [2, 0, 3, 1]
    image = enhanced_image(VOXELS, axial_affine(), order, modality)
    for frame, index in zip(image.PerFrameFunctionalGroupsSequence, order, strict=True):
        values = Dataset()  # of each slice another
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = str(1 + index), "-1024", "HU"
        frame.PixelValueTransformationSequence = [values]
    del image.RescaleSlope, image.RescaleIntercept, image.RescaleType
    (path,) = save_series([image], tmp_path)
    frames = headers_of([path])[0].slices()
    geometry = assess(frames)
    ordered = [frames[index] for index in geometry.order]
    decoded = read_series([path] * len(ordered), ordered, geometry.affine)
    expected = np.stack([(VOXELS[index] + 1024) * (1 + index) - 1024 for index in range(len(VOXELS))])
    np.testing.assert_array_equal(decoded.volume.voxels, expected)
    np.testing.assert_allclose(decoded.volume.affine, axial_affine(), atol=1e-9)
    assert [dataset.ReferencedFrameNumber for dataset in decoded.datasets] == [2, 4, 1, 3]
    assert not any("PixelData" in dataset for dataset in decoded.datasets)


def test_a_real_enhanced_image_gives_the_volume_of_its_classic_export() -> None:
    folder = shared("data", "mr_philips_enhanced")
    (enhanced,) = (folder / "enhanced").glob("1901*")
    classic = sorted((folder / "1901_pcasl_classic").glob("*.dcm"))
    volumes = []
    for paths in ([enhanced], classic):
        slices = [
            (path, part) for path, header in zip(paths, headers_of(paths), strict=True) for part in header.slices()
        ]
        geometry = assess([part for _, part in slices])
        ordered = [slices[index] for index in geometry.order]
        volumes.append(
            read_series([path for path, _ in ordered], [part for _, part in ordered], geometry.affine).volume
        )
    assert volumes[0].voxels.shape == (40, 96, 96)
    assert np.ptp(volumes[0].voxels) > 10
    np.testing.assert_array_equal(volumes[0].voxels, volumes[1].voxels)
    np.testing.assert_allclose(volumes[0].affine, volumes[1].affine, atol=1e-6)


@pytest.mark.parametrize(("bits", "signed"), [(12, False), (12, True), (16, False), (16, True)])
def test_pixels_of_every_depth_and_sign(tmp_path: Path, bits: int, signed: bool) -> None:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    stored = np.random.default_rng(2).integers(low, high, VOXELS.shape, endpoint=True)
    stored[:, 0, 0], stored[:, 0, 1] = low, high
    datasets = ct_series(VOXELS)
    for dataset, plane in zip(datasets, stored, strict=True):
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
        dataset.PixelData = (plane & 0xFFFF).astype("<u2").tobytes()
        dataset.RescaleIntercept = "10"
    np.testing.assert_array_equal(decode(datasets, tmp_path).volume.voxels, stored + 10)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(
    ("allocated", "stored", "signed", "size"),
    [(8, 8, 0, (5, 7)), (8, 7, 1, (4, 6)), (16, 12, 0, (5, 7)), (16, 16, 1, (2, 9))],
)
def test_native_frames_are_what_pydicom_makes_of_them(
    frames: int, allocated: int, stored: int, signed: int, size: tuple[int, int]
) -> None:
    image = native(frames, allocated, stored, signed, size)
    expected = get_decoder(ExplicitVRLittleEndian).as_array(image, raw=True)[0].reshape(frames, *size)
    for frame in range(frames):
        decoded = decode_frame(image, Path(), frame)
        assert decoded.flags.writeable == (stored < allocated), "it was copied, or not taken the short way"
        assert decoded.dtype == expected.dtype
        np.testing.assert_array_equal(decoded, expected[frame])


def native(frames: int, allocated: int, stored: int, signed: int, size: tuple[int, int]) -> Dataset:
    content = np.random.default_rng(5).bytes(frames * size[0] * size[1] * allocated // 8)
    (image,) = ct_series(VOXELS[:1])
    image.Rows, image.Columns = size
    image.BitsAllocated, image.BitsStored, image.HighBit = allocated, stored, stored - 1
    image.PixelRepresentation, image.NumberOfFrames = signed, frames
    image.PixelData = content + b"\0" * (len(content) % 2)
    return image


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"SamplesPerPixel": 2}, ValueError),
        ({"BitsStored": 17}, ValueError),
        ({"BitsAllocated": 12}, ValueError),
        ({"PixelRepresentation": 2}, ValueError),
        ({"PhotometricInterpretation": "GREY"}, ValueError),
        ({"PixelData": bytes(2 * 9 * 2 - 2)}, ValueError),
        ({"PixelData": bytes(2 * 9 * 2 + 2)}, UserWarning),
        ({"FloatPixelData": bytes(2 * 9 * 4)}, AttributeError),
        ({"BitsStored": None}, AttributeError),
    ],
)
@pytest.mark.filterwarnings("error")
def test_native_pixels_that_are_not_as_they_must_be_are_left_to_pydicom(
    attributes: dict[str, Any], error: type[Exception]
) -> None:
    image = native(1, 16, 12, 0, (2, 9))
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    with pytest.raises(error):
        decode_frame(image, Path(), 0)


def test_a_physical_value_does_not_change_with_how_it_is_shown(tmp_path: Path) -> None:
    inverse = ct_series(VOXELS, attributes={"PhotometricInterpretation": "MONOCHROME1"})
    np.testing.assert_array_equal(decode(inverse, tmp_path).volume.voxels, VOXELS)


RADIOGRAPH = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
    "Modality": "DX",
    "BitsStored": 12,
    "HighBit": 11,
    "RescaleIntercept": "0",
    "ImagePositionPatient": None,
    "ImageOrientationPatient": None,
    "FrameOfReferenceUID": None,
}


def test_a_radiograph_that_is_stored_as_a_negative_is_turned_into_a_positive(tmp_path: Path) -> None:
    stored = np.random.default_rng(4).integers(0, 4096, (1, 24, 20))
    images = []
    for interpretation in ("MONOCHROME2", "MONOCHROME1"):
        datasets = ct_series(stored - 1024, attributes=RADIOGRAPH | {"PhotometricInterpretation": interpretation})
        (path,) = save_series(datasets, tmp_path / interpretation)
        images.append(read_image(path, headers_of([path])[0]))
    positive, negative = images
    np.testing.assert_array_equal(positive.pixels, stored[0])
    np.testing.assert_array_equal(negative.pixels, 4095 - stored[0])
    assert (positive.inverted, negative.inverted) == (False, True)
    assert "PixelData" not in positive.dataset


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    datasets = ct_series(VOXELS)
    datasets[1].RescaleSlope, datasets[1].RescaleIntercept = "0.5", "-100"
    decoded = decode(datasets, tmp_path)
    np.testing.assert_array_equal(decoded.volume.voxels[0], VOXELS[0])
    np.testing.assert_array_equal(decoded.volume.voxels[1], (VOXELS[1] + 1024) * 0.5 - 100)


def test_a_window_and_a_presentation_lut_change_nothing(tmp_path: Path) -> None:
    attributes = {"WindowCenter": ["40", "-600"], "WindowWidth": ["400", "1500"], "PresentationLUTShape": "INVERSE"}
    np.testing.assert_array_equal(decode(ct_series(VOXELS, attributes=attributes), tmp_path).volume.voxels, VOXELS)


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"RescaleSlope": None, "RescaleIntercept": None}, "MissingRescale"),
        ({"RescaleSlope": "0"}, "MissingRescale"),
        ({"RescaleType": "Z_EFF"}, "NotHounsfield"),
    ],
)
def test_a_ct_without_hounsfield_units_is_refused(tmp_path: Path, attributes: dict[str, Any], code: str) -> None:
    with pytest.raises(StudyRefused) as caught:
        decode(ct_series(VOXELS, attributes=attributes), tmp_path)
    assert caught.value.reason.code == code


def signed_with_padding(declared: int, vr: str, limit: int | None = None) -> list[Dataset]:
    """Return slices with signed pixels, -2000 or -1990 in a corner, and the padding declared in this VR."""
    datasets = ct_series(VOXELS)
    for dataset in datasets:
        stored = (VOXELS[dataset.InstanceNumber - 1] + 1024).astype("<i2")
        if dataset.InstanceNumber > 1:
            stored[0, 0], stored[0, 1] = -2000, -1990
        dataset.PixelRepresentation = 1
        dataset.PixelData = stored.tobytes()
        dataset.add_new(0x00280120, vr, declared)
        if limit is not None:
            dataset.add_new(0x00280121, vr, limit)
    return datasets


@pytest.mark.parametrize(("declared", "vr"), [(-2000, "SS"), (63536, "US")])
def test_padding_is_found_in_either_signedness(tmp_path: Path, declared: int, vr: str) -> None:
    padding = decode(signed_with_padding(declared, vr), tmp_path).volume.padding
    assert padding is not None
    assert not padding[0].any()
    assert padding[:, 0, 0].tolist() == [False, True, True, True]
    assert np.count_nonzero(padding) == 3


def test_a_range_of_padding_is_padding(tmp_path: Path) -> None:
    padding = decode(signed_with_padding(-2000, "SS", -1985), tmp_path).volume.padding
    assert padding is not None
    assert np.count_nonzero(padding) == 6


def test_declared_padding_that_does_not_occur_takes_no_memory(tmp_path: Path) -> None:
    attributes = {"PixelPaddingValue": 5000}
    assert decode(ct_series(VOXELS, attributes=attributes), tmp_path).volume.padding is None


def test_a_syntax_without_a_decoder_is_named(tmp_path: Path) -> None:
    datasets = ct_series(VOXELS)
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = MPEG2MPML
        dataset.PixelData = encapsulate([b"\x00\x01"])
        dataset["PixelData"].is_undefined_length = True
    with pytest.raises(UnsupportedTransferSyntax, match="MPEG2") as caught:
        decode(datasets, tmp_path)
    assert str(MPEG2MPML) in caught.value.words


def test_damaged_pixel_data_are_refused(tmp_path: Path) -> None:
    datasets = ct_series(VOXELS)
    datasets[2].compress(JPEG2000Lossless, generate_instance_uid=False)
    datasets[2].PixelData = encapsulate([b"\xff\x4f\xff\x51" + b"\x00" * 40])
    with pytest.raises(UndecodablePixelData, match="Image 3"):
        decode(datasets, tmp_path)


def test_too_few_pixels_are_refused(tmp_path: Path) -> None:
    datasets = ct_series(VOXELS)
    datasets[0].PixelData = datasets[0].PixelData[:-100]
    with pytest.raises(UndecodablePixelData, match="can not be decoded"):
        decode(datasets, tmp_path)


def test_a_file_that_is_not_what_was_indexed_is_refused(tmp_path: Path) -> None:
    paths = save_series(ct_series(VOXELS), tmp_path)
    headers = headers_of(paths)
    with pytest.raises(UndecodablePixelData, match="another object"):
        read_series(paths[::-1], headers, axial_affine())
    larger = ct_series(np.zeros((4, 30, 20)))
    for dataset, header in zip(larger, headers, strict=True):
        dataset.SOPInstanceUID = UID(header.sop_instance_uid)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    with pytest.raises(UndecodablePixelData, match="30x20"):
        read_series(save_series(larger, tmp_path / "other"), headers, axial_affine())


def test_a_file_that_is_no_dicom_is_refused_and_one_that_is_gone_is_tried_again(tmp_path: Path) -> None:
    paths = save_series(ct_series(VOXELS), tmp_path)
    headers = headers_of(paths)
    paths[1].write_bytes(b"no DICOM")
    with pytest.raises(UndecodablePixelData, match="Image 2"):
        read_series(paths, headers, axial_affine())
    paths[1].unlink()
    with pytest.raises(SourceUnreadable) as caught:  # the disk's trouble is no property of the study
        read_series(paths, headers, axial_affine())
    assert caught.value.transient


def test_an_absurd_size_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    datasets = ct_series(VOXELS, attributes={"Rows": 65535, "Columns": 65535})
    with pytest.raises(UndecodablePixelData, match="65535x65535"):
        decode(datasets, tmp_path)


def test_a_deflated_file_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = ct_series(VOXELS)
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = UID(DeflatedExplicitVRLittleEndian)
    paths = save_series(datasets, tmp_path)
    headers = headers_of(paths)
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = deflater.compress(b"\0" * 2**24) + deflater.flush()
    content = paths[0].read_bytes()
    start = 144 + int(pydicom.filereader.read_file_meta_info(paths[0]).FileMetaInformationGroupLength)
    paths[0].write_bytes(content[:start] + bomb)
    monkeypatch.setattr("inference.decoding._MOST_BYTES_PER_FILE", 2**23)
    with pytest.raises(UndecodablePixelData, match="inflates"):
        read_series(paths, headers, axial_affine())
