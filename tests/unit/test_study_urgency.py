"""Urgent studies: every condition of a rule holds somewhere in the study, and priority is time, not a class."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from study.headers import InstanceHeader
from study.patterns import patterns
from study.urgency import HEAD_START_SECONDS, UrgencyRule, most_urgent, turn

IMAGE = InstanceHeader(
    sop_class_uid="1.2.3", sop_instance_uid="1.2", study_instance_uid="1", series_instance_uid="2", modality="CT"
)


def rule(name: str = "emergency", priority: int = 100, **conditions: Any) -> UrgencyRule:  # noqa: ANN401 - of several types
    return UrgencyRule(name, priority, **conditions)


STUDY = (
    replace(IMAGE, institutional_department_name="Zentrale Notaufnahme", series_description="Thorax nativ"),
    replace(
        IMAGE, institutional_department_name="", series_description="Topogramm", requested_procedure_priority="STAT"
    ),
)


@pytest.mark.parametrize(
    ("conditions", "applies"),
    [
        ({"department": ("notaufnahme",)}, True),
        ({"department": ("radiology", "^zentrale")}, True),
        ({"department": ("^notaufnahme",)}, False),
        ({"requested_priority": ("^(stat|high)$",)}, True),
        # Each for an image, not all for the same one
        ({"department": ("notauf",), "requested_priority": ("stat",)}, True),
        ({"department": ("notauf",), "requested_priority": ("routine",)}, False),
        ({"series_description": ("thorax",), "calling_ae_titles": frozenset({"CT2", "CT3"})}, True),
        ({"series_description": ("thorax",), "calling_ae_titles": frozenset({"CT3"})}, False),
        ({"calling_ae_titles": frozenset({"CT1"})}, True),
        ({"calling_ae_titles": frozenset()}, False),
        ({"study_description": ("trauma",)}, False),
        ({"study_description": ("^$",)}, True),  # images that do not say it
    ],
)
def test_every_given_condition_holds_for_some_image(conditions: dict[str, Any], applies: bool) -> None:
    assert rule(**conditions).applies(STUDY, {"CT1", "CT2"}) is applies


def test_of_several_rules_the_one_that_is_worth_most_holds() -> None:
    low, high = rule("low", 10, department=("notaufnahme",)), rule("high", 50, department=("notaufnahme",))
    other = rule("other", 900, department=("neurology",))
    assert most_urgent([low, high, other], STUDY, ()) is high
    assert most_urgent([other], STUDY, ()) is None
    assert most_urgent([], STUDY, ()) is None


def test_a_rule_looks_at_no_more_of_a_text_than_any_device_may_write() -> None:
    long = replace(IMAGE, study_description="x" * 256 + "trauma")
    assert not rule(study_description=("trauma",)).applies([long], ())
    assert rule(study_description=("trauma",)).applies([replace(IMAGE, study_description="x" * 250 + "trauma")], ())


def test_each_level_of_priority_counts_as_ten_minutes_of_waiting() -> None:
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert HEAD_START_SECONDS == 600
    assert turn(noon, 0) == noon
    assert turn(noon, 3) == noon - timedelta(minutes=30)
    assert turn(noon, -1) == noon + timedelta(minutes=10)
    assert turn(noon, 1009) < noon - timedelta(days=7)


def test_what_is_no_regular_expression_is_named() -> None:
    assert patterns(("a", "(b|c)")) == ("a", "(b|c)")
    with pytest.raises(ValueError, match=r"'lung\(' is no regular expression: missing \)"):
        patterns(("ok", "lung("))
