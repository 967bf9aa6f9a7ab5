"""What was measured of a model is kept whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from hilum.config import Settings
from hilum.models.measured import Measured, keep, measured_last

MEASURED = Measured("toy", "d", "bfloat16", False, "cpu", "CPU", "2026-03-04T10:00:00+00:00", {"decisions": 0})


def test_what_can_not_be_put_in_its_place_leaves_nothing_behind(tmp_path: Path) -> None:
    settings = Settings.model_validate({"base_dir": tmp_path})
    folder = settings.data_dir / "bench"
    in_the_way = folder / "toy.json"
    in_the_way.mkdir(parents=True)
    with pytest.raises(OSError, match=r"toy\.json"):
        keep(settings, MEASURED)
    assert list(folder.iterdir()) == [in_the_way]
    in_the_way.rmdir()
    assert keep(settings, MEASURED) == in_the_way
    assert list(folder.iterdir()) == [in_the_way]
    assert measured_last(settings, "toy") == MEASURED
