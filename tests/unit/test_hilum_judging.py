"""What we commit ourselves to: only what is whole under its UID and class, and never on a guess."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import CTImageStorage

from db.delivery.vouching import Held
from db.files.filestore import FileStore
from hilum.committing.judging import Judgement, is_on_disk, judge, listed, may_still_come
from study.commitment import FailureReason, Reference
from study.entities import StoredInstance
from tests.support.databases import SERIES, STUDY, stored
from tests.support.series import ct_series, save_series

CT = "1.2.840.10008.5.1.4.1.1.2"
FIRST, SECOND = stored(1), stored(2)


def reference(instance: StoredInstance, sop_class_uid: str = CT) -> Reference:
    return Reference(sop_class_uid, instance.header.sop_instance_uid)


def versions(*instances: StoredInstance) -> Mapping[str, Sequence[Held]]:
    found: dict[str, list[Held]] = {}
    for key, instance in enumerate(instances):
        found.setdefault(instance.header.sop_instance_uid, []).append(Held(key, instance))
    return found


def test_what_is_whole_is_answered_for() -> None:
    judgement = judge([reference(FIRST), reference(SECOND)], versions(FIRST, SECOND), lambda _: True)
    assert judgement.failed == {}
    assert [[held.key for held in each] for each in judgement.whole.values()] == [[0], [1]]


def test_each_failure_has_its_reason() -> None:
    references = [reference(FIRST, "1.2.840.10008.5.1.4.1.1.4"), reference(SECOND), reference(stored(3))]
    judgement = judge(references, versions(FIRST, SECOND), lambda instance: instance is not SECOND)
    assert judgement.whole == {}
    assert list(judgement.failed.values()) == [
        FailureReason.CLASS_INSTANCE_CONFLICT,
        FailureReason.PROCESSING_FAILURE,
        FailureReason.NO_SUCH_OBJECT_INSTANCE,
    ]
    assert judgement.absent == 1


@pytest.mark.parametrize("broken", [0, 1])
def test_of_several_versions_every_one_must_be_whole(broken: int) -> None:
    """Which of them it was that the peer sent, nobody knows."""
    both = [FIRST, stored(1, content="other")]
    judgement = judge([reference(FIRST)], versions(*both), lambda instance: instance is not both[broken])
    assert list(judgement.failed.values()) == [FailureReason.PROCESSING_FAILURE]
    assert len(judge([reference(FIRST)], versions(*both), lambda _: True).whole[reference(FIRST)]) == 2


def test_a_version_of_another_class_is_a_conflict() -> None:
    other = stored(1, content="other", header={"sop_class_uid": "1.2.840.10008.5.1.4.1.1.4"})
    judgement = judge([reference(FIRST)], versions(FIRST, other), lambda _: True)
    assert list(judgement.failed.values()) == [FailureReason.CLASS_INSTANCE_CONFLICT]


def test_a_list_is_told_where_all_of_it_is_known() -> None:
    whole = judge([reference(FIRST), reference(SECOND)], versions(FIRST, SECOND), lambda _: True)
    uids = frozenset({FIRST.header.sop_instance_uid, SECOND.header.sop_instance_uid})
    assert listed(whole) == {STUDY: {SERIES: uids}}
    lacking = judge([reference(FIRST), reference(SECOND)], versions(FIRST), lambda _: True)
    assert listed(lacking) == {}  # of which series the second is, nobody knows
    assert listed(Judgement()) == {}


def test_a_file_is_whole_by_its_size_and_its_bytes(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    (path,) = save_series(ct_series(np.zeros((1, 4, 4))), store.inbox("receiver-0"))
    instance = store.read_incoming(path)
    assert instance.header.sop_class_uid == CTImageStorage
    assert is_on_disk(store, instance)  # in the inbox still
    store.move_in([instance])
    assert is_on_disk(store, instance)
    assert not is_on_disk(store, replace(instance, size=instance.size + 1))
    assert not is_on_disk(store, replace(instance, digest="0" * 64))
    file = store.locate(instance)
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert not is_on_disk(store, instance)
    file.write_bytes(b"")
    assert not is_on_disk(store, instance)
    file.unlink()
    assert not is_on_disk(store, instance)


def test_what_an_inbox_held_before_the_request_may_still_come(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    now = datetime.now(UTC)
    assert not may_still_come(store, now)
    (path,) = save_series(ct_series(np.zeros((1, 4, 4))), store.inbox("receiver-0"))
    assert may_still_come(store, now + timedelta(seconds=1))
    later = (now + timedelta(seconds=60)).timestamp()
    os.utime(path, (later, later))
    assert not may_still_come(store, now)
