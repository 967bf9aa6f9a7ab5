from __future__ import annotations

import pytest

from scp.retrieving.retrieve_status import Verdict, meaning_of


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.DONE),
        (0xB000, Verdict.DONE_IN_PART),
        (0xB123, Verdict.DONE_IN_PART),
        (0xFE00, Verdict.STOPPED),
        (0xA701, Verdict.REFUSED),
        (0xA702, Verdict.REFUSED),
        (0xA710, Verdict.REFUSED),
        (0x0213, Verdict.REFUSED),
        (0x1234, Verdict.REFUSED),
        (0xA801, Verdict.NOT_ALLOWED),
        (0x0122, Verdict.NOT_ALLOWED),
        (0x0124, Verdict.NOT_ALLOWED),
        (0x0211, Verdict.NOT_ALLOWED),
        (0xA900, Verdict.NOT_UNDERSTOOD),
        (0xAA02, Verdict.NOT_UNDERSTOOD),
        (0xC000, Verdict.NOT_UNDERSTOOD),
        (0x0110, Verdict.NOT_UNDERSTOOD),
    ],
)
def test_each_status_has_its_verdict(status: int, verdict: Verdict) -> None:
    assert meaning_of(status).verdict is verdict


def test_what_only_a_person_can_change_comes_with_the_remedy() -> None:
    assert "register it there with our host and port" in meaning_of(0xA801).words
    assert "allow our AE title to retrieve there" in meaning_of(0x0124).words


def test_no_status_is_without_a_meaning() -> None:
    assert all(meaning_of(status).words for status in range(0x10000))
