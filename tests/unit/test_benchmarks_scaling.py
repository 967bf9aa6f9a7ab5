"""The benchmark of scaling: a backlog as the database keeps one, and the arithmetic of what slices cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.backlog import IMAGES_EACH, Side, changes, fill, print_sides
from benchmarks.one_series import measure
from benchmarks.peers import run_app_sdk
from benchmarks.scaling import Cost, main, print_costs
from benchmarks.studies import generate_thorax
from db.engine import Database
from db.images.index import studies_due
from db.overview.queries import list_studies
from study.states import StudyState


def test_a_backlog_is_closed_and_a_part_of_it_delivered(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'hilum.db'}")
    database.migrate()
    fill(database, 6)
    with database.reading() as uow:
        summaries = list_studies(uow)
        assert not studies_due(uow, 0, uow.now())
    database.close()
    assert [summary.instances for summary in summaries] == [IMAGES_EACH] * 6
    states = [summary.state for summary in summaries]
    assert states.count(StudyState.DELIVERED) == 2
    assert states.count(StudyState.NOT_SELECTED) == 4


def test_a_backlog_is_said_in_percent_of_the_time_without(capsys: pytest.CaptureFixture[str]) -> None:
    without, beside = Side(0, [400.0, 420.0, 410.0], [2.0], [1.0]), Side(9, [328.0], [2.1, 2.5, 2.2], [1.0])
    assert changes((without, beside)) == pytest.approx((25.0, 10.0, 0.0))
    print_sides((without, beside), 9)
    assert "| **what the backlog adds to the time** | +25.0 % | +10.0 % | +0.0 % |" in capsys.readouterr().out


def test_a_cost_is_told_for_each_slice(capsys: pytest.CaptureFixture[str]) -> None:
    cost = Cost(100, 1_000_000, (1.0, 1.2, 1.4), (0.5, 0.5, 0.9), 2_500_000)
    assert cost.for_machines() == {
        "slices": 100,
        "milliseconds_a_slice_model_aside": 5.0,
        "milliseconds_a_slice": 12.0,
        "volumes_above_rest": 2.5,
        "above_rest_mb": 2.5,
    }
    print_costs([cost], 512)
    assert "| 100 | 12.00 (10.00-14.00) | 5.00 (5.00-7.00) | 2 | 2.50 |" in capsys.readouterr().out


def test_a_series_is_analysed_and_written_as_often_as_asked(tmp_path: Path) -> None:
    thorax = generate_thorax(tmp_path, slices=16, matrix=64, spacing=(18.0, 6.0))
    measured = measure(list(thorax.paths), 1)
    (run,) = measured.runs
    assert set(run) >= {"decode", "inference", "measure", "encode"}
    assert (measured.slices, measured.volume_bytes) == (16, thorax.volume_bytes)
    # What other tests left to be freed in this process may be more than this took
    assert min(measured.peak, measured.at_rest) > 0


def test_numbers_of_slices_that_can_not_be_picked_evenly_are_refused() -> None:
    with pytest.raises(SystemExit, match="300 does not divide 1000"):
        main(["--slices", "300,1000", "--backlog", "0"])


def test_an_app_sdk_that_does_not_run_gives_no_figure(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no figure"):
        run_app_sdk(tmp_path / "nothing", tmp_path, tmp_path / "out")
