from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hilum.clock import Clock
from hilum.moments import zone_at

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
    here = [time.astimezone(zone_at("Europe/Vienna", time)) for time in (before, after)]
    assert [f"{time:%H:%M %z}" for time in here] == ["02:30 +0200", "02:30 +0100"]
    assert before.astimezone(zone_at("", before)) == before
