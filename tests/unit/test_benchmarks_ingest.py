"""The benchmark of reception: its images, its bare loop, and what it makes of what was measured."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import MRImageStorage

from benchmarks.bare_loop import SYNCS, message_id, response
from benchmarks.images import make_ct, make_mr, make_multiframe
from benchmarks.ingest import Row, print_rows, ratio, run
from benchmarks.receivers import Server, servers, start_bare_loop
from benchmarks.report import assignment
from tests.support.network import encoded_data_set, run_dcmtk, storescu


def row(server: str, associations: int, rate: float) -> Row:
    return Row(server, True, associations, rate, rate, rate, rate / 2, 0.1, 90.0)


ROWS = [row("hilum (2 receivers)", 4, 600.0), row("Orthanc (SQLite)", 4, 200.0), row("bare loop, log", 4, 800.0)]


def test_images_differ_in_identity_and_place_alone(tmp_path: Path) -> None:
    datasets = [dcmread(path) for path in make_mr(tmp_path, 3)]
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == 3
    assert len({dataset.SeriesInstanceUID for dataset in datasets}) == 1
    heights = [float(dataset.ImagePositionPatient[2]) for dataset in datasets]
    assert np.diff(heights) == pytest.approx([1.0, 1.0])
    for dataset in datasets:
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.file_meta.MediaStorageSOPClassUID == dataset.SOPClassUID == MRImageStorage
        assert dataset.pixel_array.shape == (64, 64)


def test_a_ct_image_has_half_a_megabyte(tmp_path: Path) -> None:
    (path,) = make_ct(tmp_path, 1)
    assert dcmread(path).pixel_array.shape == (512, 512)
    assert 524_288 < path.stat().st_size < 526_000


def test_a_multiframe_object_holds_all_its_frames(tmp_path: Path) -> None:
    (path,) = make_multiframe(tmp_path, 1, frames=3)
    assert dcmread(path).pixel_array.shape == (3, 512, 512)


@pytest.fixture(params=SYNCS)
def bare_loop(request: pytest.FixtureRequest) -> Server:
    sync: str = request.param
    return Server(f"bare loop, {sync}", True, "ANY", partial(start_bare_loop, sync=sync))


def test_a_run_counts_what_the_bare_loop_stored(bare_loop: Server, tmp_path: Path) -> None:
    images = make_mr(tmp_path / "images", 6)
    (measured,) = run([bare_loop], images, [2], 1, tmp_path / "received")
    assert measured.images_per_second > 0
    assert 2 < measured.peak_memory_mb < 100
    assert measured.megabytes_per_second == pytest.approx(
        measured.images_per_second * images[0].stat().st_size / 1e6, abs=0.1
    )


def test_the_bare_loop_writes_each_data_set_whole(tmp_path: Path) -> None:
    images = make_mr(tmp_path / "images", 3)
    with start_bare_loop(tmp_path / "received", "file") as server:
        assert run_dcmtk(storescu(server.port, *images)).returncode == 0
    written = sorted(path for path in (tmp_path / "received").iterdir() if path.is_file())
    assert [path.read_bytes() for path in written] == [encoded_data_set(path) for path in images]


def test_the_bare_loop_overwrites_its_log(tmp_path: Path) -> None:
    images = make_ct(tmp_path / "images", 20)  # 10 MB, of which the log holds 8 and the last of them
    with start_bare_loop(tmp_path / "received", "log") as server:
        assert run_dcmtk(storescu(server.port, *images)).returncode == 0
        assert server.stored() == 20
    sizes = sorted(path.stat().st_size for path in (tmp_path / "received").glob("*.log"))
    assert sizes[0] == 0  # of the connection that only looked whether somebody listens
    assert 2**23 < sizes[-1] < 2**23 + 2**20


def test_a_response_goes_to_the_message_that_was_sent() -> None:
    command = b"\x00\x00\x00\x00\x04\x00\x00\x00\x50\x00\x00\x00" + b"\x00\x00\x10\x01\x02\x00\x00\x00\x07\x01"
    assert message_id(command) == b"\x07\x01"
    answer = response(3, b"\x07\x01")
    assert answer[0] == 4
    assert int.from_bytes(answer[2:6], "big") == len(answer) - 6
    assert answer[10:12] == b"\x03\x03"
    assert b"\x00\x00\x20\x01\x02\x00\x00\x00\x07\x01" in answer


def test_ratios_are_of_the_same_number_of_associations(capsys: pytest.CaptureFixture[str]) -> None:
    assert ratio(ROWS, "hilum", "Orthanc", 4) == pytest.approx(3.0)
    assert ratio(ROWS, "hilum", "bare loop, log", 4) == pytest.approx(0.75)
    assert ratio(ROWS, "hilum", "Orthanc", 1) is None
    print_rows([*ROWS, row("hilum (2 receivers)", 64, 570.0)])
    printed = capsys.readouterr().out
    assert "| hilum (2 receivers) | yes | 4 | 600 (600-600) | 300 | 3.00 |  | 0.75 |  | 0.10 | 90 |" in printed
    assert "hilum (2 receivers): 0.95 of its total with 4 associations at 64." in printed


def test_a_key_of_the_configuration_is_given_as_in_toml() -> None:
    assert assignment("node.receivers=4") == ("node.receivers", 4)
    assert assignment('node.accept="any"') == ("node.accept", "any")
    (hilum, *_) = servers({"node.receivers": 4})
    assert hilum.name == "hilum (4 receivers)"
