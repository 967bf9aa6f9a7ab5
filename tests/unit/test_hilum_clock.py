from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pydicom.dataset import Dataset

from hilum.clock import Clock
from hilum.moments import zone_at
from tests.support.results import CONTEXT

START = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_clock_that_is_moved_says_how_far_once() -> None:
    wall, steady = [START], [100.0]
    clock = Clock(lambda: wall[0], lambda: steady[0])
    for passed, moved in ((60, 0), (1, 3600), (1, 0), (5, -7200), (1, 0)):
        steady[0] += passed
        wall[0] += timedelta(seconds=passed + moved)
        assert clock.jumped() == moved
    wall[0] += timedelta(seconds=1.5)  # as a time service steps it
    assert clock.jumped() == 0


def test_an_hour_that_comes_twice_at_the_end_of_summer_time_has_two_offsets() -> None:
    before, after = (datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in (0, 1))
    here = [
        replace(CONTEXT, created_at=time, time_zone=zone_at("Europe/Vienna", time)).local_time(Dataset())
        for time in (before, after)
    ]
    assert [f"{time:%H:%M %z}" for time in here] == ["02:30 +0200", "02:30 +0100"]
    declared = Dataset()
    declared.TimezoneOffsetFromUTC = "-0500"  # the images' own offset wins over the site's zone
    context = replace(CONTEXT, created_at=after, time_zone=zone_at("Europe/Vienna", after))
    assert f"{context.local_time(declared):%d %H:%M %z}" == "24 20:30 -0500"
