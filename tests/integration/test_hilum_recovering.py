"""``hilum backup``, ``hilum restore`` and ``hilum rebuild`` as a person types them, on both databases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import Result

from db.engine import Database
from db.files.filestore import FileStore
from db.lasting import copying
from db.lasting.copying import holds_studies
from hilum.rebuilding import RESTORING, prepare
from study.errors import ArchiveError
from study.states import DeliveryState
from tests.integration.test_hilum_rebuilding import Node, facts
from tests.support.commands import run_command
from tests.support.databases import DIALECTS, empty_url, planned


@pytest.fixture(params=DIALECTS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    with_data = tmp_path / "node"
    with_data.mkdir()
    url = f"sqlite:///{with_data / 'hilum.db'}" if request.param == "sqlite" else empty_url(request.param, tmp_path)
    made = Node(tmp_path, request.param, FileStore(with_data), Database.open(url))
    made.database.migrate()
    yield made
    made.database.close()


def hilum(node: Node, *arguments: str) -> Result:
    """Run a command against the node."""
    url = "sqlite" if node.dialect == "sqlite" else node.database.url
    config = node.folder / "config.toml"
    config.write_text(f'[node]\ndata_dir = "{node.store.root}"\n')
    node.database.close()
    return run_command(arguments, config, url)


def elsewhere(node: Node, dialect: str) -> Node:
    """Give a machine without a node."""
    folder = node.folder / f"other-{dialect}"
    folder.mkdir()
    data_dir = folder / "node"
    url = f"sqlite:///{data_dir / 'hilum.db'}" if dialect == "sqlite" else empty_url(dialect, folder)
    return replace(node, folder=folder, dialect=dialect, store=FileStore(data_dir), database=Database.open(url))


def reported(node: Node, number: int, *peers: str) -> str:
    """Bring a study's results into the outbox."""
    study = node.receive(number)
    node.close(study, planned(node.images(study)))
    node.finish(study, *peers)
    return study


def files(root: Path) -> dict[str, tuple[bytes, int]]:
    """Return what every file of a node holds, and when it was written."""
    found = (path for name in ("store", "results", "inbox") for path in (root / name).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_a_node_is_restored_on_another_machine_and_another_database_and_loses_nothing(node: Node) -> None:
    first, backup = reported(node, 1, "pacs"), node.folder / "backup"
    waiting = node.store.inbox("receiver-1") / "waiting.dcm"
    waiting.write_bytes(node.store.stored_files(first)[0].read_bytes())
    node.store.node_identity()
    done = hilum(node, "backup", str(backup))
    assert done.exit_code == 0, (done.output, done.exception)
    node.end("delivered")
    second = reported(node, 2, "pacs")
    again = hilum(node, "backup", str(backup))
    assert " 4 were there" not in done.stdout
    assert int(again.stdout.split(", ")[1].split()[0]) >= 6, again.stdout
    node.end("delivered", limit=1)
    later = node.receive(3)
    for dialect in DIALECTS:
        other = elsewhere(node, dialect)
        said = hilum(other, "restore", str(backup), "--yes")
        assert said.exit_code == 0, (said.output, said.exception)
        there = files(other.store.root)
        assert {name: there.get(name) for name in files(backup)} == files(backup)
        assert other.store.node_identity() == node.store.node_identity()
        assert {each.state for each in other.record(first).deliveries} == {DeliveryState.DELIVERED}
        assert {each.state for each in other.record(second).deliveries} == {DeliveryState.PENDING}
        assert not (other.store.root / RESTORING).exists()
        with pytest.raises(AssertionError):
            other.record(later)  # it came after the backup
        other.database.close()
    assert waiting.name in {path.name for path in other.store.scan_inbox()}


def test_what_came_between_the_copy_of_the_database_and_the_files_is_restored(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, backup = reported(node, 1, "pacs"), node.folder / "backup"
    came: list[str] = []
    copy = copying.copy_to_file

    def copy_and_go_on(database: Database, path: Path) -> None:
        copy(database, path)
        node.end("delivered")
        came.append(node.receive(2))

    monkeypatch.setattr("hilum.backups.copy_to_file", copy_and_go_on)
    assert hilum(node, "backup", str(backup)).exit_code == 0
    other = elsewhere(node, node.dialect)
    said = hilum(other, "restore", str(backup), "--yes")
    assert said.exit_code == 0, (said.output, said.exception)
    assert "2 studies came or changed after the copy of the database" in said.stdout
    assert {each.state for each in other.record(first).deliveries} == {DeliveryState.DELIVERED}
    assert other.record(came[0]).summary.instances == 3
    other.database.close()


def test_a_backup_is_kept_apart(node: Node) -> None:
    study = reported(node, 1, "pacs")
    inside = hilum(node, "backup", str(node.store.root / "backup"))
    assert isinstance(inside.exception, ArchiveError)
    assert "lies in the data directory" in inside.exception.words
    backup = node.folder / "backup"
    assert hilum(node, "backup", str(backup)).exit_code == 0
    onto = hilum(node, "restore", str(backup), "--yes")
    assert isinstance(onto.exception, ArchiveError)
    assert "holds a node already (inbox, store, results, node.json)" in onto.exception.words
    other = elsewhere(node, "sqlite")
    other.store.root.mkdir()
    other.store.node_identity()
    other.database.migrate()
    strange = hilum(other, "backup", str(backup))
    assert isinstance(strange.exception, ArchiveError)
    assert "the backup of another node" in strange.exception.words
    other.database.close()
    assert node.record(study).summary.instances == 3


def test_what_retention_removed_leaves_the_backup_and_nothing_else_does(node: Node) -> None:
    removed, lost = reported(node, 1), reported(node, 2)
    backup = node.folder / "backup"
    assert hilum(node, "backup", str(backup)).exit_code == 0
    node.note(removed, {"record": "removed"})
    for study in (removed, lost):
        for path in node.store.stored_files(study):
            path.unlink()
    said = hilum(node, "backup", str(backup))
    assert "3 files of studies that retention removed are gone from it" in said.stdout
    assert len(FileStore(backup).stored_files(lost)) == 3
    assert FileStore(backup).stored_files(removed) == []
    assert FileStore(backup).read_manifest(removed)[-1]["record"] == "removed"


def test_a_restore_that_was_broken_off_is_finished_and_no_node_runs_before(node: Node) -> None:
    study, backup = reported(node, 1, "pacs"), node.folder / "backup"
    assert hilum(node, "backup", str(backup)).exit_code == 0
    whole = (backup / "hilum.db").read_bytes()
    (backup / "hilum.db").write_bytes(b"no database")
    other = elsewhere(node, node.dialect)
    assert hilum(other, "restore", str(backup), "--yes").exit_code != 0
    with pytest.raises(ArchiveError, match="A backup was being restored"):
        prepare(other.database, other.store, lambda _: None, lambda: False)
    (backup / "hilum.db").write_bytes(whole)
    assert hilum(other, "restore", str(backup), "--yes").exit_code == 0
    assert other.record(study).jobs == node.record(study).jobs
    other.database.close()


def test_a_damaged_database_is_kept_and_made_anew(node: Node) -> None:
    study = reported(node, 1, "pacs")
    node.end("delivered")
    before = node.record(study)
    if node.dialect == "postgresql":
        refused = hilum(node, "rebuild", "--yes")
        assert "not empty" in str(refused.exception)
        node.database = Database.open(empty_url("postgresql", node.folder))
    else:
        path = node.store.root / "hilum.db"
        node.database.close()
        path.write_bytes(os.urandom(1000) + path.read_bytes()[1000:])
    done = hilum(node, "rebuild", "--yes")
    assert done.exit_code == 0, (done.output, done.exception)
    assert facts(node.record(study)) == facts(before)
    kept = node.store.root / "hilum.db.lost-1"
    assert kept.exists() == (node.dialect == "sqlite")
    assert holds_studies(node.database)
