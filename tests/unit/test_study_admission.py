"""Which studies are analysed at all: who sent them, how old they are, and what a person said of them."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from hilum.admitting import why_not_admitted
from hilum.config import Settings
from hilum.entries import ModelSettings, PeerSettings
from hilum.planning import Circumstances, plan_study, read_cards
from study.admission import NOT_ASKED_FOR, PASSED_OVER, TOO_OLD, made_on, why_too_old, why_unasked
from study.headers import InstanceHeader
from tests.support.databases import stored

TODAY = date(2026, 3, 20)


def header(**values: Any) -> InstanceHeader:  # noqa: ANN401
    uids = {
        "sop_class_uid": "1.2",
        "sop_instance_uid": "1.3",
        "study_instance_uid": "1.4",
        "series_instance_uid": "1.5",
    }
    return InstanceHeader(**(uids | {"rows": 512} | values))


@pytest.mark.parametrize(
    ("said", "made"),
    [
        ([{"study_date": "20260301"}], date(2026, 3, 1)),
        ([{"study_date": "2026.03.01"}], date(2026, 3, 1)),
        ([{"study_date": "20260301"}, {"study_date": "20260305"}], date(2026, 3, 5)),
        ([{"study_date": "20260301", "series_date": "20260310"}], date(2026, 3, 1)),
        ([{"series_date": "20260302"}, {"acquisition_date": "20260304"}], date(2026, 3, 4)),
        ([{"acquisition_datetime": "20260306101112.5"}], date(2026, 3, 6)),
        ([{"study_date": "20261301", "series_date": "20260302"}], date(2026, 3, 2)),  # no such month
        # A report that joins the study later says nothing of its age
        ([{"series_date": "20190302"}, {"series_date": "20260319", "rows": None}], date(2019, 3, 2)),
        ([{"study_date": "unknown"}], None),
        ([{}], None),
        ([], None),
    ],
)
def test_a_study_was_made_when_it_says_so_itself_or_its_newest_image_does(
    said: list[dict[str, Any]], made: date | None
) -> None:
    assert made_on(header(**values) for values in said) == made


@pytest.mark.parametrize(
    ("study_date", "most_days", "days"),
    [
        ("20260306", 14, None),  # 14 days: not older than that
        ("20260305", 14, 15),
        ("20190302", 14, 2575),
        ("20190302", 0, None),  # no limit
        ("20270101", 14, None),  # some clock is wrong
        ("", 14, None),  # nobody knows
    ],
)
def test_what_is_older_than_the_limit_is_too_old(study_date: str, most_days: int, days: int | None) -> None:
    reason = why_too_old([header(study_date=study_date)], TODAY, most_days)
    assert (reason and (reason.code, reason.numbers["days"])) == (days and (TOO_OLD, days))
    assert why_too_old([header(study_date=study_date)], None, most_days) is None


def test_what_nobody_sent_or_only_to_be_stored_is_not_asked_for() -> None:
    fetched = why_unasked([], [])
    assert fetched is not None
    assert (fetched.code, "nobody sent it" in fetched.words) == (NOT_ASKED_FOR, True)
    migrated = why_unasked(["MIGRATION", "OLDPACS"], ["OLDPACS", "MIGRATION"])
    assert migrated is not None
    assert (migrated.code, "MIGRATION, OLDPACS" in migrated.words) == (NOT_ASKED_FOR, True)
    assert why_unasked(["MIGRATION", "CT1"], ["MIGRATION"]) is None


MIGRATION = PeerSettings(name="old", ae_title="MIGRATION", analyse=False)
SETTINGS = Settings.model_validate(
    {
        "node": {"accept": "any"},
        "study": {"max_age_days": 14},
        "peers": {"old": MIGRATION},
        "models": {"lung_ct": ModelSettings(name="lung_ct", bundle="builtin:lung_ct")},
    }
)
OLD, NEW = [header(study_date="20190302")], [header(study_date="20260319")]


@pytest.mark.parametrize(
    ("headers", "known", "code"),
    [
        (NEW, {"calling_ae_titles": {"CT1"}}, None),
        (NEW, {"calling_ae_titles": {"CT1", "MIGRATION"}}, None),
        (NEW, {"calling_ae_titles": {"NOBODY_KNOWS"}}, None),
        (NEW, {"calling_ae_titles": {"MIGRATION"}}, NOT_ASKED_FOR),
        (NEW, {"calling_ae_titles": set()}, NOT_ASKED_FOR),
        (NEW, {"calling_ae_titles": {"CT1"}, "passed_over": True}, PASSED_OVER),
        (OLD, {"calling_ae_titles": {"CT1"}}, TOO_OLD),
        (OLD, {"calling_ae_titles": {"MIGRATION"}}, NOT_ASKED_FOR),
        # A person's word goes before all of it
        (OLD, {"calling_ae_titles": set(), "passed_over": True, "on_request": True}, None),
        # A folder: there are no senders
        (OLD, {}, None),
    ],
)
def test_a_study_is_admitted_by_its_senders_its_age_and_what_a_person_said(
    headers: list[InstanceHeader], known: dict[str, Any], code: str | None
) -> None:
    senders = known.pop("calling_ae_titles", None)
    titles = None if senders is None else frozenset(senders)
    reason = why_not_admitted(SETTINGS, Circumstances(calling_ae_titles=titles, today=TODAY, **known), headers)
    assert (reason and reason.code) == code
    if reason is not None:
        assert "hilum analyse" in str(reason.numbers["remedy"])


def test_of_a_study_that_is_not_admitted_no_series_is_judged() -> None:
    cards = read_cards(SETTINGS)
    series = {"1.5": [stored(1)]}
    migrated = plan_study(SETTINGS, cards, series, Circumstances(frozenset({"MIGRATION"}), today=TODAY))
    assert (migrated.jobs, migrated.verdicts) == ((), ())
    assert migrated.not_admitted is not None
    assert migrated.words == migrated.not_admitted.words
    sent = plan_study(SETTINGS, cards, series, Circumstances(frozenset({"CT1"}), today=TODAY))
    assert sent.not_admitted is None
    assert sent.verdicts
