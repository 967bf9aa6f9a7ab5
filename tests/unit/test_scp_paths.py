"""With another pynetdicom than those that were tried, reception goes the plain way, and says so."""

from __future__ import annotations

import re
from pathlib import Path

import pynetdicom
import pytest
import structlog

from hilum.config import Settings
from hilum.doctor import _reception, _Unwell
from hilum.roles.receiver import _tell_way
from scp.receiving import paths
from scp.receiving.paths import VERIFIED_PYNETDICOM, why_not_fast
from tests.support.conversation import honest_echo
from tests.support.network import running_receiver
from tests.support.peers import REPOSITORY

FAST, PLAIN = Settings(), Settings.model_validate({"node": {"fast_reception": False}})


def test_the_pinned_version_is_installed_and_was_tried() -> None:
    pinned = re.search(r"^pynetdicom==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert pinned[1] == pynetdicom.__version__
    assert pinned[1] in VERIFIED_PYNETDICOM, "run tests/integration/test_scp_both_ways.py with it, then add it there"
    assert why_not_fast() == ""
    assert _reception(FAST) == "the fast way"


def test_with_another_version_reception_goes_the_plain_way_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "VERIFIED_PYNETDICOM", frozenset({"3.0.1"}))
    with running_receiver(tmp_path) as node, structlog.testing.capture_logs() as logs:
        assert not node.receiver.is_fast
        honest_echo(node.port)
        _tell_way(node.receiver, wanted=True)
    (told,) = logs
    assert (told["event"], told["log_level"]) == ("receiver.plain", "warning")
    assert "verified with 3.0.1 only; install Hilum with its constraints.txt" in told["reason"]
    with pytest.raises(_Unwell, match=r"verified with 3\.0\.1 only; install Hilum with its constraints\.txt"):
        _reception(FAST)


def test_what_is_wanted_is_no_warning(tmp_path: Path) -> None:
    with running_receiver(tmp_path, fast_reception=False) as node, structlog.testing.capture_logs() as logs:
        _tell_way(node.receiver, wanted=False)
    assert [(told["event"], told["log_level"]) for told in logs] == [("receiver.plain", "info")]
    assert _reception(PLAIN) == "slow: node.fast_reception = false"
