from __future__ import annotations

import pytest

from scp.sending.store_status import Verdict, meaning_of


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.STORED),
        (0xB000, Verdict.STORED_WITH_WARNING),
        (0xB006, Verdict.STORED_WITH_WARNING),
        (0xB007, Verdict.STORED_WITH_WARNING),
        (0xB123, Verdict.STORED_WITH_WARNING),
        (0x0107, Verdict.STORED_WITH_WARNING),
        (0x0116, Verdict.STORED_WITH_WARNING),
        (0xA700, Verdict.TRY_AGAIN),
        (0xA7FF, Verdict.TRY_AGAIN),
        (0x0110, Verdict.TRY_AGAIN),
        (0x0210, Verdict.TRY_AGAIN),
        (0x0213, Verdict.TRY_AGAIN),
        (0xA900, Verdict.KEEP_ASIDE),
        (0xC000, Verdict.KEEP_ASIDE),
        (0xC211, Verdict.KEEP_ASIDE),
        (0x0117, Verdict.KEEP_ASIDE),
        (0x0212, Verdict.KEEP_ASIDE),
        (0x0122, Verdict.CONTEXT_REFUSED),
        (0x0124, Verdict.CONTEXT_REFUSED),
        (0x0211, Verdict.CONTEXT_REFUSED),
        (0x0111, Verdict.DUPLICATE),
        (0x1234, Verdict.TRY_AGAIN),
        (0xFE00, Verdict.TRY_AGAIN),
    ],
)
def test_each_status_has_its_verdict(status: int, verdict: Verdict) -> None:
    assert meaning_of(status).verdict is verdict


def test_no_status_is_without_a_meaning() -> None:
    assert all(meaning_of(status).words for status in range(0x10000))
