"""How long each form took, and the check: what `hilum show` tells of the encoding."""

from __future__ import annotations

import time
from pathlib import Path

from sr_writer.laps import Laps
from sr_writer.results import write_results
from tests.support.results import CONTEXT, MODEL, headers_on_disk, lungs, result_of

SHAPE = (4, 20, 28)


def test_each_form_has_its_time_and_the_check_of_all_of_them_its_own(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path / "in", SHAPE)
    began = time.perf_counter()
    laps = Laps()
    write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path / "out", laps=laps)
    assert list(laps.seconds) == ["seg", "check", "sr"]
    assert all(seconds > 0 for seconds in laps.seconds.values())
    assert sum(laps.seconds.values()) <= time.perf_counter() - began
