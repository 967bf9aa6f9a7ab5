"""The spool of commitment messages: durable, bounded, and hostile to names from the wire."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

import scp.commitments.spool as spool_module
from scp.commitments.spool import CommitmentSpool
from study.commitment import CommitmentReport, CommitmentRequest, Reference

OBJECT = Reference("1.2.840.10008.5.1.4.1.1.2", "1.2.3")


@pytest.fixture
def spool(tmp_path: Path) -> CommitmentSpool:
    return CommitmentSpool(tmp_path / "commitment")


def test_messages_come_out_as_they_went_in_the_oldest_first(spool: CommitmentSpool) -> None:
    report = CommitmentReport("1.2.9", (OBJECT,), ((Reference("1.2", "1.3"), 0x0112),))
    request = CommitmentRequest("1.2.8", (OBJECT,))
    assert spool.put_report("PACS", report)
    assert spool.put_report("PACS", CommitmentReport("1.2.10"))
    assert spool.put_request("CT", request)
    first, second = spool.reports()
    waiting = spool.read_report(first)
    assert (waiting.report, waiting.calling_ae_title) == (report, "PACS")
    assert spool.read_report(second).report.transaction_uid == "1.2.10"
    (path,) = spool.requests()
    asked = spool.read_request(path)
    assert (asked.request, asked.calling_ae_title) == (request, "CT")
    assert abs(asked.received_at.timestamp() - time.time()) < 60
    spool.remove(first)
    spool.remove(first)  # again changes nothing
    assert spool.reports() == [second]


def test_only_the_peer_that_was_asked_is_expected_to_report(spool: CommitmentSpool, tmp_path: Path) -> None:
    spool.expect("1.2.9", "PACS")
    assert spool.is_expected("1.2.9", "PACS")
    assert not spool.is_expected("1.2.9", "OTHER")
    assert not spool.is_expected("1.2.10", "PACS")
    (tmp_path / "commitment" / "elsewhere").write_text('{"ae_title": "PACS"}')
    for hostile in ("../elsewhere", "", ".", "..", "1.2.9/../../elsewhere", "a" * 300, "1" * 65):
        assert not spool.is_expected(hostile, "PACS")
        with pytest.raises(ValueError, match="no UID"):
            spool.expect(hostile, "PACS")
    assert CommitmentSpool(tmp_path / "commitment").is_expected("1.2.9", "PACS")  # after a restart


def test_so_many_wait_and_no_more(spool: CommitmentSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MOST_WAITING", 2)
    report = CommitmentReport("1.2.9")
    assert [spool.put_report("PACS", report) for _ in range(3)] == [True, True, False]
    spool.remove(spool.reports()[0])
    assert spool.put_report("PACS", report)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"transaction_uid": "1", "committed": 5, "failed": []}'])
def test_a_damaged_message_is_put_aside(spool: CommitmentSpool, content: str) -> None:
    spool.put_report("PACS", CommitmentReport("1.2.9"))
    (path,) = spool.reports()
    path.write_text(content)
    for read in (spool.read_report, spool.read_request):
        with pytest.raises(ValueError, match=r"."):
            read(path)
    aside = spool.put_aside(path)
    assert spool.reports() == []
    assert aside.read_text() == content


def test_old_markers_and_what_dead_writers_left_are_removed(spool: CommitmentSpool, tmp_path: Path) -> None:
    spool.expect("1.2.9", "PACS")
    spool.expect("1.2.10", "PACS")
    spool.put_report("PACS", CommitmentReport("1.2.9"))
    (report,) = spool.reports()
    left = report.with_name(".half.part")
    left.write_text("{")
    long_ago = time.time() - 10 * 86_400
    for path in (left, report, tmp_path / "commitment" / "asked" / "1.2.9"):
        os.utime(path, (long_ago, long_ago))
    assert spool.tidy(marker_seconds=86_400) == 2
    assert not spool.is_expected("1.2.9", "PACS")
    assert spool.is_expected("1.2.10", "PACS")
    assert spool.reports() == [report]  # what nobody has acted upon stays, however old
    assert json.loads(report.read_text())["transaction_uid"] == "1.2.9"
