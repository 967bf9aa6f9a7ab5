"""The file store: where files go, that they get there whole, and that a stranger's bytes do no harm."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
)

from db.files import incoming
from db.files.filestore import FileStore
from db.files.frugal import Budget
from study.errors import ArchiveError, StoreBusy
from study.headers import InstanceHeader
from tests.support.enhanced import enhanced_image
from tests.support.peers import REPOSITORY, shared
from tests.support.series import axial_affine, ct_series


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "var")


def image(attributes: Mapping[str, Any] | None = None) -> Dataset:
    return ct_series(np.zeros((1, 4, 4)), attributes=attributes)[0]


def encoded(dataset: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax_uid == ImplicitVRLittleEndian
    buffer.is_little_endian = transfer_syntax_uid != ExplicitVRBigEndian
    write_dataset(buffer, Dataset({element.tag: element for element in dataset}))
    if transfer_syntax_uid != DeflatedExplicitVRLittleEndian:
        return buffer.getvalue()
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(buffer.getvalue()) + deflater.flush()


def part_10(data_set: bytes, transfer_syntax_uid: str = ExplicitVRLittleEndian, calling: str = "CT1") -> bytes:
    """Return a DICOM file with just the file meta that a receiver writes."""
    meta = b""
    for element, vr, value in ((0x10, b"UI", transfer_syntax_uid), (0x17, b"AE", calling)):
        padded = value.encode() + (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
        meta += struct.pack("<HH2sH", 2, element, vr, len(padded)) + padded
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta)) + meta + data_set


def receive(store: FileStore, content: bytes, name: str = "1", receiver: str = "receiver-1") -> Path:
    folder = store.inbox(receiver)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.dcm"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, "1.2.3.4"],
)
def test_a_received_object_is_read_in_every_encoding(store: FileStore, syntax: str) -> None:
    dataset = image({"PatientName": "Мария", "SpecificCharacterSet": "ISO_IR 144"})
    data_set = encoded(dataset, syntax)
    path = receive(store, part_10(data_set, syntax))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    found = store.read_incoming(path)
    assert found.header == InstanceHeader.of(dataset, syntax)
    assert found.header.patient_name == "Мария"
    assert found.digest == hashlib.sha256(data_set).hexdigest()
    assert (found.size, found.calling_ae_title) == (path.stat().st_size, "CT1")
    assert found.inbox_path == "inbox/receiver-1/1.dcm"
    assert found.received_at.timestamp() == 1_700_000_000
    assert found.path.startswith(f"store/{dataset.StudyInstanceUID}/{dataset.SeriesInstanceUID}/")


def test_the_digest_is_that_of_the_data_set_alone(store: FileStore) -> None:
    data_set = encoded(image())
    one = store.read_incoming(receive(store, part_10(data_set, calling="CT1"), "1"))
    other = store.read_incoming(receive(store, part_10(data_set, calling="OTHER"), "2"))
    assert one.digest == other.digest
    assert one.path == other.path


def test_a_file_from_the_future_was_received_now(store: FileStore) -> None:
    path = receive(store, part_10(encoded(image())))
    os.utime(path, (4_000_000_000, 4_000_000_000))
    assert store.read_incoming(path).received_at.year < 2090


def _undefined_length(depth: int) -> bytes:
    """Return a sequence of undefined length that holds itself `depth` times."""
    opening = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 2**32 - 1
    )
    return opening * depth


UNREADABLE = {
    "empty": b"",
    "text": b"not DICOM at all" * 20,
    "prefix only": bytes(128) + b"DICM",
    "no data set": part_10(b""),
    "no transfer syntax": part_10(encoded(image()), ""),
    "transfer syntax that is no UID": part_10(encoded(image()), "../../etc"),
    "huge file meta": bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, 2**32 - 1) + bytes(64),
    "cut in the header": part_10(encoded(image())[:100]),
    "no study": part_10(encoded(image({"StudyInstanceUID": None}))),
    "deflated noise": part_10(b"\xff" * 50, DeflatedExplicitVRLittleEndian),
    "endless nesting": part_10(_undefined_length(20_000)),
    "claims 4 GiB": part_10(struct.pack("<HH2sHL", 0x0008, 0x0005, b"UN", 0, 2**32 - 2)),
    "huge patient ID": part_10(
        encoded(image()).replace(b"LO\x02\x00P1", b"LO" + struct.pack("<H", 5000) + b"9" * 5000)
    ),
}


@pytest.mark.filterwarnings("ignore:.*Value Length:UserWarning", "ignore:The value length:UserWarning")
@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_can_not_be_indexed_is_refused_with_a_reason(store: FileStore, content: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"^Its? "):
        store.read_incoming(receive(store, content))


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("uid", ["../../x", "1.2/3", "a", "." * 5, "1." + "2" * 64])
def test_a_uid_that_is_none_never_becomes_a_path(store: FileStore, keyword: str, uid: str) -> None:
    dataset = image()
    raw = encoded(dataset).replace(_element(dataset, keyword), _element_of(keyword, uid))
    with pytest.raises(ArchiveError):
        store.read_incoming(receive(store, part_10(raw)))


def _element(dataset: Dataset, keyword: str) -> bytes:
    return _element_of(keyword, str(dataset[keyword].value))


def _element_of(keyword: str, value: str) -> bytes:
    element = {"StudyInstanceUID": (0x20, 0xD), "SeriesInstanceUID": (0x20, 0xE), "SOPInstanceUID": (0x8, 0x18)}[
        keyword
    ]
    padded = value.encode() + b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", *element, b"UI", len(padded)) + padded


def test_a_deflated_bomb_is_not_inflated(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "_BUDGET", Budget(size=2**16, reads=100))
    zeros = struct.pack("<HH2sHL", 0x0008, 0x0001, b"UN", 0, 2**26) + bytes(2**26)
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = deflater.compress(zeros) + deflater.flush()
    assert len(incoming._inflated(io.BytesIO(bomb)).getvalue()) <= 2**16
    path = receive(store, part_10(bomb, DeflatedExplicitVRLittleEndian))
    with pytest.raises(ArchiveError):
        store.read_incoming(path)


def enhanced(frames: int = 3, attributes: Mapping[str, Any] | None = None) -> Dataset:
    dataset = enhanced_image(np.zeros((frames, 4, 4)), axial_affine(), range(frames)[::-1], "MR")
    for keyword, value in (attributes or {}).items():
        setattr(dataset, keyword, value)
    return dataset


def sequence(tag: int, content: bytes, *, defined: bool = False) -> bytes:
    length = len(content) if defined else 2**32 - 1
    end = b"" if defined else struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"SQ", 0, length) + content + end


def items(content: bytes, count: int = 1, *, defined: bool = False) -> bytes:
    if defined:
        return (struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content) * count
    return (struct.pack("<HHL", 0xFFFE, 0xE000, 2**32 - 1) + content + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)) * count


SHARED_GROUPS, FRAMES_GROUPS, FRAME_CONTENT, PRIVATE = 0x52009229, 0x52009230, 0x00209111, 0x20051001


def with_groups(frames: int, groups: bytes) -> bytes:
    """Return an Enhanced MR image of so many frames with other functional groups than its own."""
    dataset = enhanced(attributes={"NumberOfFrames": frames})
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PixelData"):
        del dataset[keyword]
    return part_10(encoded(dataset) + groups)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, "1.2.3.4"],
)
@pytest.mark.parametrize("undefined", [False, True])
def test_the_frames_of_an_enhanced_image_are_read_in_every_encoding(
    store: FileStore, syntax: str, undefined: bool
) -> None:
    content = Dataset()
    content.StackID = "Größe"
    dataset = enhanced(attributes={"SpecificCharacterSet": "ISO_IR 192"})
    dataset.PerFrameFunctionalGroupsSequence[1].FrameContentSequence = [content]
    for element in dataset.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined
    header = store.read_incoming(receive(store, part_10(encoded(dataset, syntax), syntax))).header
    assert header == InstanceHeader.of(dataset, syntax)
    assert [slice_.stack_id for slice_ in header.slices()] == ["", "Größe", ""]
    assert len({slice_.image_position_patient for slice_ in header.slices()}) == 3


@pytest.mark.no_cover  # what is timed is the reading, not the tracing
@pytest.mark.parametrize(
    "name", ["1901_WIP_3DpCASL_real.dcm", "1903_WIP_SOURCE_-_3DpCASL.dcm", "2001_WIP_fcMRI_Field_Mapping_e2_phMag.dcm"]
)
def test_real_enhanced_images_are_read_as_a_whole_and_quickly(store: FileStore, name: str) -> None:
    path = shared("data", "mr_philips_enhanced", "enhanced", name)
    dataset = dcmread(path, stop_before_pixels=True)
    started = time.process_time()
    header = store.read_incoming(receive(store, path.read_bytes())).header
    assert time.process_time() - started < 2
    assert header == InstanceHeader.of(dataset, dataset.file_meta.TransferSyntaxUID)
    assert len(header.frames) == dataset.NumberOfFrames


def test_frames_in_an_element_of_unknown_vr_are_implicit(store: FileStore) -> None:
    position = encoded(enhanced(1).PerFrameFunctionalGroupsSequence[0], ImplicitVRLittleEndian)
    content = items(position, 2)
    unknown = struct.pack("<HH2sHL", 0x5200, 0x9230, b"UN", 0, len(content)) + content
    header = store.read_incoming(receive(store, with_groups(2, unknown))).header
    assert [slice_.image_position_patient for slice_ in header.slices()] == [(-20.0, -30.0, -40.0)] * 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("_FRAMES_BUDGET", Budget(2**26, 60)), ("_FRAMES_BUDGET", Budget(300, 10_000)), ("_MOST_FRAMES", 2)],
)
def test_frames_beyond_what_is_read_of_an_image_are_left_out(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    path = receive(store, part_10(encoded(enhanced())))
    assert len(store.read_incoming(path).header.frames) == 3
    monkeypatch.setattr(incoming, name, value)
    assert store.read_incoming(path).header.frames == ()


@pytest.mark.no_cover  # costs thrice as much where each line is traced; other tests take the same lines
def test_thousands_of_frames_with_private_groups_are_read(store: FileStore) -> None:
    position = encoded(enhanced(1).PerFrameFunctionalGroupsSequence[0])
    private = sequence(PRIVATE, items(struct.pack("<HH2sH", 0x2005, 0x1002, b"LO", 0) * 60))
    found = store.read_incoming(
        receive(store, with_groups(3000, sequence(FRAMES_GROUPS, items(position + private, 3000))))
    )
    assert len(found.header.slices()) == 3000
    assert found.header.image_position_patient == (-20.0, -30.0, -40.0)


EMPTY_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
HOSTILE_FRAMES = {
    "more than it says": (2, sequence(FRAMES_GROUPS, items(b"", 3))),
    "fewer than it says": (4, sequence(FRAMES_GROUPS, items(b"", 3))),
    "more than anybody has": (10**6, sequence(FRAMES_GROUPS, items(b"", 3))),
    "a frame that holds very many": (1, sequence(FRAMES_GROUPS, items(sequence(FRAME_CONTENT, EMPTY_ITEM * 50_000)))),
    "the same, of defined length": (
        1,
        sequence(FRAMES_GROUPS, items(sequence(FRAME_CONTENT, EMPTY_ITEM * 50_000, defined=True))),
    ),
    "very many private ones": (1, sequence(FRAMES_GROUPS, items(sequence(PRIVATE, EMPTY_ITEM * 50_000)))),
    "several shared groups": (1, sequence(SHARED_GROUPS, items(b"", 9)) + sequence(FRAMES_GROUPS, items(b""))),
    "no end": (1, sequence(FRAMES_GROUPS, items(sequence(PRIVATE, items(b"")[:-8])))[:-24]),
    "no items": (1, sequence(FRAMES_GROUPS, b"\xff" * 64)),
    "endless nesting": (1, sequence(FRAMES_GROUPS, items(_undefined_length(5_000)))),
    "endless nesting of what is read": (
        1,
        sequence(FRAMES_GROUPS, items(_undefined_length(5_000).replace(b"\x08\x00\x40\x11", b"\x20\x00\x11\x91"))),
    ),
    "an item beyond the file": (1, sequence(FRAMES_GROUPS, struct.pack("<HHL", 0xFFFE, 0xE000, 2**31))[:-8]),
    "nothing": (3, b""),
}


@pytest.mark.parametrize("case", HOSTILE_FRAMES)
def test_an_image_whose_frames_can_not_be_read_is_stored_without_them(store: FileStore, case: str) -> None:
    frames, groups = HOSTILE_FRAMES[case]
    header = store.read_incoming(receive(store, with_groups(frames, groups))).header
    assert header.number_of_frames == frames
    assert header.frames == ()


@pytest.mark.parametrize(
    "case", ["a frame that holds very many", "the same, of defined length", "very many private ones"]
)
def test_hostile_frames_do_not_fill_the_memory(store: FileStore, case: str) -> None:
    frames, groups = HOSTILE_FRAMES[case]
    path = receive(store, with_groups(frames, groups))
    tracemalloc.start()
    try:
        store.read_incoming(path)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20  # all of them would take 32 MB
    finally:
        tracemalloc.stop()


def test_the_frames_of_a_segmentation_are_not_even_looked_at(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "_BUDGET", Budget(size=2**14, reads=400))
    dataset = enhanced(500, {"SOPClassUID": SegmentationStorage})
    assert len(encoded(dataset)) > 2**16
    assert store.read_incoming(receive(store, part_10(encoded(dataset)))).header.frames == ()


@pytest.mark.no_cover  # as above
@pytest.mark.parametrize(
    "element",
    [
        sequence(0x00180012, EMPTY_ITEM * 400_000),
        sequence(0x00180012, EMPTY_ITEM * 20_000, defined=True),
        struct.pack("<HH2sHL", 0x0018, 0x0050, b"SQ", 0, 160_000) + EMPTY_ITEM * 20_000,
    ],
    ids=["undefined length", "defined length", "of a text"],
)
def test_a_header_of_very_many_parts_is_refused_before_it_becomes_very_many_objects(
    store: FileStore, element: bytes
) -> None:
    data_set = encoded(image({"SliceThickness": None}))
    place = data_set.index(struct.pack("<HH2s", 0x0018, 0x0060, b"DS"))
    path = receive(store, part_10(data_set[:place] + element + data_set[place:]))
    with pytest.raises(ArchiveError, match=r"^Its header "):
        store.read_incoming(path)


SOUND = part_10(encoded(image()))
SOUND_ENHANCED = part_10(encoded(enhanced()))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=8),
    length=st.integers(0, len(SOUND)),
)
@example(changes=[], length=len(SOUND))
def test_damaged_files_are_read_or_refused_and_nothing_else(
    store: FileStore, changes: list[tuple[int, int]], length: int
) -> None:
    content = bytearray(SOUND)
    for position, value in changes:
        content[position] = value
    del content[length:]
    try:
        found = store.read_incoming(receive(store, bytes(content)))
    except ArchiveError:
        return
    assert Path(os.path.normpath(store.root / found.path)).is_relative_to(store.root / "store")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(800, len(SOUND_ENHANCED) - 1), st.integers(0, 255)), min_size=1, max_size=8)
)
def test_damaged_frames_are_read_or_left_out_and_nothing_else(store: FileStore, changes: list[tuple[int, int]]) -> None:
    content = bytearray(SOUND_ENHANCED)
    for position, value in changes:
        content[position] = value
    try:
        found = store.read_incoming(receive(store, bytes(content)))
    except ArchiveError:
        return
    assert len(found.header.frames) in (0, found.header.number_of_frames)


def test_files_move_into_their_places_and_the_inbox_empties(store: FileStore) -> None:
    datasets = ct_series(np.zeros((3, 4, 4)))
    contents = [part_10(encoded(dataset)) for dataset in datasets]
    for number, content in enumerate(contents):
        receive(store, content, str(number), f"receiver-{number % 2}")
    instances = [store.read_incoming(path) for path in store.scan_inbox()]
    assert [store.locate(instance).parent.parent.name for instance in instances] == ["inbox"] * 3
    store.move_in(instances)
    assert store.scan_inbox() == []
    assert sorted((store.root / i.path).read_bytes() for i in instances) == sorted(contents)
    assert all(store.locate(instance) == store.root / instance.path for instance in instances)
    store.move_in(instances)  # again changes nothing


def test_the_same_bytes_again_leave_the_inbox_and_the_first_copy_stays(store: FileStore) -> None:
    content = encoded(image())
    first = store.read_incoming(receive(store, part_10(content, calling="CT1"), "1"))
    store.move_in([first])
    again = store.read_incoming(receive(store, part_10(content, calling="CT2"), "2"))
    store.move_in([again])
    assert store.scan_inbox() == []
    assert store.locate(again).read_bytes() == part_10(content, calling="CT1")


def test_the_only_copy_of_known_bytes_is_kept(store: FileStore) -> None:
    content = part_10(encoded(image()))
    first = store.read_incoming(receive(store, content, "1"))
    (store.root / first.inbox_path).unlink()  # as if the index knew it and its file had never been moved
    again = store.read_incoming(receive(store, content, "2"))
    store.move_in([again])
    assert store.locate(first).read_bytes() == content


def test_a_file_that_is_nowhere_is_an_error(store: FileStore) -> None:
    instance = store.read_incoming(receive(store, part_10(encoded(image()))))
    (store.root / instance.inbox_path).unlink()
    with pytest.raises(ArchiveError, match="neither"):
        store.locate(instance)
    with pytest.raises(ArchiveError, match="neither"):
        store.move_in([instance])


def test_the_inboxes_are_scanned_oldest_first_without_what_is_half_written(store: FileStore) -> None:
    assert store.scan_inbox() == []
    for name, receiver, age in (("b", "receiver-1", 30), ("a", "receiver-2", 20), ("c", "receiver-1", 10)):
        os.utime(receive(store, b"x", name, receiver), (1000 - age, 1000 - age))
    (store.inbox("receiver-1") / "d.part").write_bytes(b"x")
    (store.inbox("receiver-1") / "e.dcm").symlink_to("/etc/passwd")
    assert [path.stem for path in store.scan_inbox()] == ["b", "a", "c"]
    assert [path.stem for path in store.scan_inbox(limit=2)] == ["b", "a"]


def test_what_is_put_aside_keeps_its_bytes_and_says_why(store: FileStore) -> None:
    path = receive(store, b"junk", "7")
    aside = store.put_aside(path, "It is no DICOM file.")
    assert store.relative(aside) == "aside/receiver-1-7.dcm"
    assert aside.read_bytes() == b"junk"
    assert aside.with_suffix(".reason.txt").read_text() == "It is no DICOM file.\n"
    assert store.scan_inbox() == []


def test_a_manifest_keeps_its_records_and_survives_a_line_that_was_cut_off(store: FileStore) -> None:
    store.append_manifest("1.2.3", {"record": "results", "job": 1})
    path = store.study_folder("1.2.3") / "manifest.jsonl"
    with path.open("ab") as file:
        file.write(b'{"record": "deliv')
    store.append_manifest("1.2.3", {"record": "delivered"})
    records = store.read_manifest("1.2.3")
    assert [record["record"] for record in records] == ["results", "delivered"]
    assert all(record["at"].endswith("+00:00") for record in records)
    assert store.read_manifest("1.2.4") == []


@pytest.mark.parametrize("uid", ["..", "", "1.2/..", "/etc"])
def test_folders_are_named_by_uids_alone(store: FileStore, uid: str) -> None:
    for folder in (store.study_folder, store.results_folder):
        with pytest.raises(ArchiveError):
            folder(uid)


def test_the_nodes_identity_lasts(store: FileStore) -> None:
    first = store.node_identity()
    assert FileStore(store.root).node_identity() == first
    assert first.device_uid.startswith("2.25.")
    assert len(first.device_uid) <= 64
    (store.root / "node.json").write_text("{")
    with pytest.raises(ArchiveError, match="damaged"):
        store.node_identity()


def test_one_process_at_a_time_holds_the_store(store: FileStore) -> None:
    program = (
        "import sys; from pathlib import Path; from db.files.filestore import FileStore\n"
        "with FileStore(Path(sys.argv[1])).lock():\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(store.root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StoreBusy, match="Another"), store.lock():
            pass
        process.kill()
    with store.lock():
        assert store.free_bytes() > 0


def test_the_place_of_a_worker_is_held_by_one_process(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    busy = pytest.raises(StoreBusy, match="works as keeper-0")
    held = (store.lock_of("keeper-0", "one"), store.lock_of("keeper-1", "one"), store.lock_of("keeper-0", "two"))
    with held[0], held[1], held[2], busy, store.lock_of("keeper-0", "one"):
        pass
    with store.lock_of("keeper-0", "one"):
        pass
