"""SIGKILL in the middle of a transaction, or between commit and move, leaves what was committed and nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from db.engine import Database
from db.files.filestore import FileStore
from db.images.arrivals import Arrival
from db.images.index import add_instances, current_instances
from db.overview.queries import list_studies
from tests.support.databases import STUDY, migrated, stored
from tests.support.peers import REPOSITORY
from tests.support.series import ct_series, save_series

_HALF_WAY = """
import sys, signal
from db.engine import Database
from db.images.index import add_instances
from tests.support.databases import stored
with Database.open(sys.argv[1]).writing() as uow:
    add_instances(uow, [stored(number) for number in range(100, 400)])
    print("written", flush=True)
    signal.pause()
"""

_COMMITTED = """
import sys, signal
from pathlib import Path
from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import add_instances
store = FileStore(Path(sys.argv[2]))
instances = [store.read_incoming(path) for path in store.scan_inbox()]
with Database.open(sys.argv[1]).writing() as uow:
    add_instances(uow, instances)
    uow.commit()
store.move_in(instances[:2])
print("committed", flush=True)
signal.pause()
"""


def kill_once_it_says(program: str, word: str, *arguments: str) -> None:
    """Run a Python program, and kill it as soon as it has printed `word`."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == word
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_writer_killed_half_way_leaves_no_trace_and_no_lock(dialect: str, tmp_path: Path) -> None:
    with migrated(dialect, tmp_path) as database:
        with database.writing() as uow:
            add_instances(uow, [stored(1)])
            uow.commit()
        kill_once_it_says(_HALF_WAY, "written", database.url)
        with database.writing() as uow:
            assert add_instances(uow, [stored(1), stored(100)]) == [Arrival.DUPLICATE, Arrival.NEW]
            uow.commit()
        with database.reading() as uow:
            (series,) = current_instances(uow, STUDY).values()
            assert series == [stored(1), stored(100)]
            if dialect == "sqlite":
                assert uow.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"


def test_files_that_were_indexed_and_not_moved_are_found_moved_and_counted_once(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    paths = save_series(ct_series(np.zeros((5, 4, 4))), store.inbox("receiver-1"))
    with migrated("sqlite", tmp_path) as database:
        kill_once_it_says(_COMMITTED, "committed", database.url, str(tmp_path))
        assert len(store.scan_inbox()) == 3
        _index(database, store)
        assert store.scan_inbox() == []
        with database.reading() as uow:
            (summary,) = list_studies(uow)
            (series,) = current_instances(uow, summary.study_instance_uid).values()
        assert summary.instances == len(paths)
        assert all(store.locate(instance).is_relative_to(tmp_path / "store") for instance in series)


def _index(database: Database, store: FileStore) -> None:
    instances = [store.read_incoming(path) for path in store.scan_inbox()]
    with database.writing() as uow:
        assert add_instances(uow, instances) == [Arrival.DUPLICATE] * len(instances)
        uow.commit()
    store.move_in(instances)
