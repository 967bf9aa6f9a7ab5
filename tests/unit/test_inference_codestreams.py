"""Compressed frames that ask for memory: refused in words, in little time and memory of a process of its own."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from inference.codestreams import StrangeCodeStream, demand_size
from inference.decoders import decode_frame
from inference.decoding import read_image, read_series
from study.errors import StudyRefused, UndecodablePixelData
from tests.support.peers import REPOSITORY
from tests.support.series import axial_affine, ct_series, save_series
from tests.unit.test_inference_decoding import headers_of

SIDE = 64
ROOM = 256 * 2**20  # of memory, above what the libraries hold [bytes]
SECONDS = 20  # of the processor, for all of them and the libraries' import
BASELINE, PROCESS_14 = UID("1.2.840.10008.1.2.4.50"), UID("1.2.840.10008.1.2.4.70")
PROGRESSIVE, PROCESS_2_4 = UID("1.2.840.10008.1.2.4.55"), UID("1.2.840.10008.1.2.4.51")

_DECODE = """
import json, resource, sys, warnings
from pathlib import Path
import pydicom
from inference.decoding import read_image
from study.errors import StudyRefused
from study.headers import InstanceHeader

warnings.simplefilter("ignore")
for path in map(Path, sys.argv[3:]):
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[1]), -1))
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), -1))
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    header = InstanceHeader.of(dataset, dataset.file_meta.TransferSyntaxUID)
    try:
        said = f"pixels of {read_image(path, header).pixels.shape}"
    except StudyRefused as refused:
        said = refused.words
    print(json.dumps([path.name, said]), flush=True)
"""


def jpeg(lines: int, samples: int, frame: int, precision: int = 8) -> bytes:
    """Return a JPEG stream of one component with a frame header, of the kind `frame`, of this size, and a scan."""
    header = struct.pack(">BBHBHHBBBB", 0xFF, frame, 11, precision, lines, samples, 1, 1, 0x11, 0)
    scan = struct.pack(">BBHBBBBBB", 0xFF, 0xDA, 8, 1, 1, 0, 0, 63 if frame == 0xC0 else 0, 0)
    return b"\xff\xd8" + header + scan + b"\x00" * 64 + b"\xff\xd9"


def jpeg2000(width: int, height: int, tile: int | None = None) -> bytes:
    """Return a real JPEG 2000 stream whose size, and tiles' size, are changed."""
    (image,) = ct_series(np.zeros((1, SIDE, SIDE)))
    image.compress(JPEG2000Lossless, generate_instance_uid=False)
    stream = bytearray(list(generate_fragments(image.PixelData))[1])
    start = stream.index(b"\xff\x4f\xff\x51") + 8
    stream[start : start + 8] = struct.pack(">LL", width, height)
    stream[start + 16 : start + 24] = struct.pack(">LL", tile or width, tile or height)
    return bytes(stream)


def rle(*segments: bytes) -> bytes:
    bounds = np.cumsum([64, *map(len, segments)]).tolist()[:-1]
    return struct.pack("<16L", len(segments), *bounds, *[0] * (15 - len(segments))) + b"".join(segments)


RUN = b"\x81\x00"  # 128 bytes
BOMBS: dict[str, tuple[UID, int, Callable[[], bytes], str]] = {
    "jpeg": (BASELINE, SIDE, lambda: jpeg(65500, 65500, 0xC0), "announces 65500x65500"),
    "jpeg, 14": (PROCESS_14, SIDE, lambda: jpeg(65500, 65500, 0xC3, 16), "announces 65500x65500"),
    "jpeg, 55": (PROGRESSIVE, SIDE, lambda: jpeg(65500, 65500, 0xC2), "announces 65500x65500"),
    "jpeg, 2+4": (PROCESS_2_4, SIDE, lambda: jpeg(65500, 65500, 0xC1, 12), "announces 65500x65500"),
    "jpeg of two": (
        BASELINE,
        SIDE,
        lambda: jpeg(SIDE, SIDE, 0xC0)[:15] + jpeg(65500, 65500, 0xC0)[2:],
        "has 2 frame headers",
    ),
    "jpeg without": (BASELINE, SIDE, lambda: b"\xff\xd8\xff\xe0\x00\x02" * 3, "can not be decoded"),
    "jpeg-ls": (JPEGLSLossless, SIDE, lambda: jpeg(65500, 65500, 0xF7, 16), "announces 65500x65500"),
    "jpeg 2000": (JPEG2000Lossless, SIDE, lambda: jpeg2000(60000, 60000), "announces 60000x60000"),
    "jpeg 2000 at its end": (JPEG2000Lossless, SIDE, lambda: jpeg2000(2**32 - 1, 2**32 - 1), "announces"),
    "jpeg 2000 tiles": (JPEG2000Lossless, 128, lambda: jpeg2000(128, 128, 1), "too many tiles"),
    "jpeg 2000 cut": (JPEG2000Lossless, SIDE, lambda: jpeg2000(SIDE, SIDE)[:20], "ends within its header"),
    "rle": (RLELossless, SIDE, lambda: rle(RUN * 2**22, RUN), "expands beyond the frame"),
    "rle runs": (RLELossless, 1024, lambda: rle(RUN * 2**20, RUN * 2**20), "expands beyond the frame"),
    "rle nothing": (RLELossless, 1024, lambda: rle(b"\x80" * 2**24, b""), "expands beyond the frame"),
    "rle order": (RLELossless, SIDE, lambda: struct.pack("<16L", 2, 64, 5000, *[0] * 13) + RUN * 64, "one after"),
    "rle many": (RLELossless, SIDE, lambda: rle(*[RUN * 32] * 15), "15 RLE segments"),
}


def image(folder: Path, syntax: UID, side: int, stream: bytes, **attributes: Any) -> Path:  # noqa: ANN401 - DICOM values
    (made,) = ct_series(np.zeros((1, side, side)))
    made.file_meta.TransferSyntaxUID = syntax
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    made.PixelData = encapsulate([stream])
    made["PixelData"].is_undefined_length = True
    return save_series([made], folder)[0]


def test_no_frame_takes_more_memory_or_time_than_its_data_set_says(tmp_path: Path) -> None:
    paths = {}
    for name, (syntax, side, make, _) in BOMBS.items():
        paths[name] = image(tmp_path / "made", syntax, side, make()).rename(tmp_path / f"{name}.dcm")
    command = [sys.executable, "-c", _DECODE, str(ROOM), str(SECONDS), *map(str, paths.values())]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    said = {name.removesuffix(".dcm"): words for name, words in map(json.loads, ran.stdout.splitlines())}
    assert ran.returncode == 0, ran.stderr[-2000:]
    for name, (_, _, _, words) in BOMBS.items():
        assert words in said[name], name


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_frames_of_the_right_size_pass(syntax: UID) -> None:
    noise = np.random.default_rng(1).integers(-1024, 3000, (1, SIDE, SIDE))
    for voxels in (noise, np.zeros((1, SIDE, SIDE))):
        (made,) = ct_series(voxels)
        made.compress(syntax, generate_instance_uid=False)
        stream = list(generate_fragments(made.PixelData))[1]
        demand_size(stream, syntax, SIDE, SIDE, 2)
        with pytest.raises(StrangeCodeStream):
            demand_size(stream[:20], syntax, SIDE, SIDE, 2)


def test_padding_behind_a_segment_is_no_pixel_and_no_end_of_the_process(tmp_path: Path) -> None:
    path = image(tmp_path, RLELossless, SIDE, rle(RUN * 33, b"\x81\x01" * 33))
    with pytest.warns(UserWarning, match="non-conformant padding"):
        pixels = read_image(path, headers_of([path])[0]).pixels
    np.testing.assert_array_equal(pixels, np.full((SIDE, SIDE), 1 - 1024))


@pytest.mark.parametrize("syntax", [RLELossless, ExplicitVRLittleEndian])
def test_frames_that_are_not_there_are_refused(tmp_path: Path, syntax: UID) -> None:
    (made,) = ct_series(np.zeros((1, SIDE, SIDE)), attributes={"NumberOfFrames": 1_000_000})
    if syntax.is_encapsulated:
        made.NumberOfFrames = 1
        made.compress(syntax, generate_instance_uid=False)
        made.NumberOfFrames = 1_000_000
    (path,) = save_series([made], tmp_path)
    with pytest.raises(UndecodablePixelData, match="no single grey-scale frame"):
        read_image(path, headers_of([path])[0])
    with pytest.raises((ValueError, IndexError)):
        decode_frame(made, path, 999_999)


def test_many_frames_of_a_decoder_that_decodes_all_are_refused(tmp_path: Path) -> None:
    stream = jpeg(SIDE, SIDE, 0xC1, 12)
    path = image(tmp_path, PROCESS_2_4, SIDE, stream, BitsStored=12)
    dataset = Dataset()
    dataset.file_meta = ct_series(np.zeros((1, 4, 4)))[0].file_meta
    dataset.file_meta.TransferSyntaxUID = PROCESS_2_4
    dataset.Rows = dataset.Columns = SIDE
    dataset.BitsAllocated, dataset.BitsStored, dataset.NumberOfFrames = 16, 12, 200_000
    dataset.PixelData = encapsulate([stream] * 200_000)
    with pytest.raises(StrangeCodeStream, match="200000 frames"):
        decode_frame(dataset, path, 0)


def test_a_series_that_does_not_fit_into_the_model_s_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    paths = save_series(ct_series(np.zeros((4, SIDE, SIDE))), tmp_path)
    headers, room = headers_of(paths), 4 * 4 * SIDE * SIDE
    assert read_series(paths, headers, axial_affine(), most_bytes=room).volume.voxels.nbytes == room
    for attempt in (
        lambda: read_series(paths, headers, axial_affine(), most_bytes=room - 1),
        lambda: read_image(paths[0], headers[0], most_bytes=paths[0].stat().st_size - 1),
    ):
        with pytest.raises(StudyRefused, match="memory_mb") as caught:
            attempt()
        assert caught.value.reason.code == "SeriesTooLarge"
