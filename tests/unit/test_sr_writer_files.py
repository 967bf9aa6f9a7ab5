"""Objects reach the disk in the transfer syntax that they are in, their pixels untouched."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from sr_writer.checking.rules import read_back
from sr_writer.files import encoded, save
from study.errors import EncodingError, NonconformantObject


def capture(syntax: str | None = None, rows: int = 4) -> Dataset:
    """Return a colour picture, as it is given to be saved."""
    pixels = np.random.default_rng(1).integers(0, 255, (rows, 5, 3), dtype=np.uint8)
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "2.25.7"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = rows, 5
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    if syntax is not None:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
    return dataset


@pytest.mark.parametrize("syntax", [None, ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_native_pixels_are_in_explicit_little_endian(tmp_path: Path, syntax: str | None) -> None:
    save(capture(syntax), tmp_path / "sc.dcm")
    read = read_back(tmp_path / "sc.dcm")
    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (read.pixel_array.tobytes(), read["PixelData"].VR) == (capture().PixelData, "OB")


def test_rle_stays_rle(tmp_path: Path) -> None:
    dataset = capture()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    compressed = dataset.PixelData
    save(dataset, tmp_path / "sc.dcm")
    read = read_back(tmp_path / "sc.dcm")
    assert read.file_meta.TransferSyntaxUID == RLELossless
    assert read.PixelData == compressed
    assert read.pixel_array.tobytes() == capture().PixelData


def test_pixels_of_two_bytes_are_words() -> None:
    dataset = capture()
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    del dataset.PlanarConfiguration
    dataset.PixelData = bytes(range(40))
    assert b"\xe0\x7f\x10\x00OW\x00\x00\x28\x00\x00\x00\x00\x01\x02" in encoded(dataset)


def test_an_odd_number_of_bytes_is_padded() -> None:
    content = encoded(capture(rows=3))
    assert len(capture(rows=3).PixelData) == 45
    assert content.endswith(capture(rows=3).PixelData + b"\0")


def test_saving_leaves_the_object_as_it_was(tmp_path: Path) -> None:
    dataset = capture()
    before = dataset.PixelData
    digest, size = save(dataset, tmp_path / "sc.dcm")
    assert dataset.PixelData == before
    content = (tmp_path / "sc.dcm").read_bytes()
    assert (digest, size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert encoded(dataset) == content


def test_other_compression_is_refused() -> None:
    dataset = capture(JPEGBaseline8Bit)
    dataset.PixelData = encapsulate([b"\xff\xd8"])
    with pytest.raises(EncodingError, match=re.escape(JPEGBaseline8Bit)):
        encoded(dataset)


def test_an_element_after_the_pixels_is_refused() -> None:
    dataset = capture()
    dataset.add_new(0xFFFCFFFC, "OB", b"\0\0")
    with pytest.raises(EncodingError, match="after its Pixel Data"):
        encoded(dataset)
    assert "PixelData" in dataset


def test_another_transfer_syntax_is_not_read_back(tmp_path: Path) -> None:
    dataset = capture(ImplicitVRLittleEndian)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(tmp_path / "sc.dcm", enforce_file_format=True)
    assert dcmread(tmp_path / "sc.dcm").PixelData == dataset.PixelData
    with pytest.raises(NonconformantObject, match="neither in Explicit"):
        read_back(tmp_path / "sc.dcm")
