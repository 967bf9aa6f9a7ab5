"""The names under which work is leased."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.files.filestore import FileStore
from hilum.working.leases import index_of_worker, owner, worker_of


@pytest.mark.parametrize(
    ("machine", "role", "index"),
    [
        ("here", "keeper-0", 0),
        ("here", "keeper-12", 12),
        ("elsewhere", "keeper-0", None),
        ("here", "sender", None),
        ("here", "7", None),
        ("here", "keeper-x", None),
        ("here", "keeper-", None),
    ],
)
def test_a_lease_names_the_keeper_of_this_node_and_machine(
    tmp_path: Path, machine: str, role: str, index: int | None
) -> None:
    store = FileStore(tmp_path)
    node = store.node_identity().device_uid
    assert index_of_worker(store, "here", f"{node}/{machine}/{role}/4711") == index


def test_the_lease_of_another_node_on_this_machine_names_none_of_our_keepers(tmp_path: Path) -> None:
    ours, theirs = FileStore(tmp_path / "ours"), FileStore(tmp_path / "theirs")
    assert index_of_worker(ours, "here", owner(ours, "here", worker_of(3))) == 3
    assert index_of_worker(ours, "here", owner(theirs, "here", worker_of(3))) is None
