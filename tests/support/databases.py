"""Empty, migrated databases for tests: SQLite always, PostgreSQL in a private cluster where Debian's is installed."""

from __future__ import annotations

import atexit
import functools
import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from db.engine import Database, UnitOfWork
from study.entities import PlannedJob, ResultObject, StoredInstance
from study.errors import Reason
from study.headers import InstanceHeader

DIALECTS = ("sqlite", "postgresql")
START = datetime(2026, 1, 2, 10, 0, tzinfo=UTC)
STUDY = "1.2.826.0.1.1"
SERIES = "1.2.826.0.1.1.1"

_names = itertools.count()


@contextmanager
def migrated(dialect: str, folder: Path) -> Iterator[Database]:
    """Give an empty database with the newest schema."""
    database = Database.open(empty_url(dialect, folder))
    try:
        database.migrate()
        yield database
    finally:
        database.close()


def empty_url(dialect: str, folder: Path) -> str:
    """Return the URL of a database without any table."""
    if dialect == "sqlite":
        return f"sqlite:///{folder / 'hilum.db'}"
    sockets = _cluster()
    name = f"test_{os.getpid()}_{next(_names)}"
    command = [_postgresql("createdb"), "-h", str(sockets), "-U", "postgres", name]
    subprocess.run(command, check=True, capture_output=True)
    return f"postgresql+psycopg://postgres@/{name}?host={sockets}"


def _postgresql(name: str) -> str:
    programs = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not programs:
        pytest.skip(f"needs the program {name} (apt-get install postgresql)")
    return str(programs[-1])


@functools.cache
def _cluster() -> Path:
    """Return the folder with the socket of a private PostgreSQL, which ends with this process."""
    initdb = _postgresql("initdb")
    folder = Path(tempfile.mkdtemp(prefix="hilum-postgresql-"))
    if _as_postgres():
        shutil.chown(folder, "postgres")
    command = [initdb, "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"]
    subprocess.run([*_as_postgres(), *command], check=True, stdout=subprocess.DEVNULL, cwd="/")
    _start_cluster(folder)

    def end() -> None:
        _stop_cluster(folder)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return folder


@contextmanager
def server_away() -> Iterator[None]:
    """Have this process's PostgreSQL stopped meanwhile, as by a crash."""
    folder = _cluster()
    _stop_cluster(folder)
    try:
        yield
    finally:
        _start_cluster(folder)


def _as_postgres() -> list[str]:
    """Return what runs a command as a user of its own: PostgreSQL refuses to run as root. Debian's package has one."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


def _start_cluster(folder: Path) -> None:
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c synchronous_commit=off"
    _control(folder, "-w", "-l", str(folder / "log"), "-o", options, "start")


def _stop_cluster(folder: Path) -> None:
    _control(folder, "-m", "immediate", "stop")


def _control(folder: Path, *arguments: str) -> None:
    command = [_postgresql("pg_ctl"), "-D", str(folder / "data"), *arguments]
    subprocess.run([*_as_postgres(), *command], check=True, stdout=subprocess.DEVNULL, cwd="/")


def query_plans(database: Database, action: Callable[[UnitOfWork], object]) -> str:
    """Return how the database goes about every statement that `action` makes; nothing of it lasts."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:  # noqa: ANN401 - the driver's
        asked.append((statement, parameters))

    event.listen(database._engine, "before_cursor_execute", note)
    try:
        with database.writing() as uow:
            action(uow)
    finally:
        event.remove(database._engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN" if database.dialect == "sqlite" else "EXPLAIN"
    plans = []
    with database._engine.connect() as connection:
        for statement, parameters in asked:
            if statement.split()[0] in {"SELECT", "UPDATE"}:
                rows = connection.exec_driver_sql(f"{explain} {statement}", parameters)
                plans.append(f"{statement}\n{[row[-1] for row in rows]}")
    return "\n".join(plans)


def stored(
    number: int,
    *,
    study: str = STUDY,
    series: str = SERIES,
    content: str = "",
    seconds: float = 0.0,
    header: Mapping[str, Any] | None = None,
) -> StoredInstance:
    """Return instance `number` of a series, `seconds` after the start; another `content` is another version."""
    uid = f"{study}.9.{number}"
    digest = hashlib.sha256(f"{uid} {series} {content}".encode()).hexdigest()
    values: dict[str, Any] = {
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "sop_instance_uid": uid,
        "study_instance_uid": study,
        "series_instance_uid": series,
        "modality": "CT",
        "patient_id": "P1",
        "patient_name": "Phantom^Paula",
        "accession_number": "A123",
        "study_description": "Phantom",
        "series_number": 3,
        "image_position_patient": (0.0, 0.0, float(number)),
    }
    return StoredInstance(
        header=InstanceHeader(**(values | dict(header or {}))),
        digest=digest,
        path=f"store/{study}/{series}/{uid}-{digest[:32]}.dcm",
        inbox_path=f"inbox/receiver-1/{number:06d}-{digest[:8]}.dcm",
        size=1000,
        calling_ae_title="MODALITY",
        received_at=START + timedelta(seconds=seconds),
    )


def planned(
    instances: Sequence[StoredInstance], *, model: str = "lung_ct", refusal: Reason | None = None
) -> PlannedJob:
    """Return the job of `model` on `instances`, one series in slice order."""
    keys = sorted((instance.header.sop_instance_uid, instance.digest) for instance in instances)
    return PlannedJob(
        model_name=model,
        model_digest="m" * 64,
        series_instance_uid=instances[0].header.series_instance_uid,
        instances_digest=hashlib.sha256(repr(keys).encode()).hexdigest(),
        parameters={"frame_of_reference": "strict"},
        parameters_digest="p" * 64,
        sop_instance_uids=tuple(instance.header.sop_instance_uid for instance in instances),
        deadline_seconds=60.0,
        refusal=refusal,
    )


def with_parameters(job: PlannedJob, digest: str) -> PlannedJob:
    """Return `job` under other settings."""
    return replace(job, parameters={"frame_of_reference": "by_position"}, parameters_digest=digest)


def results(study: str = STUDY, forms: Sequence[str] = ("seg", "sr")) -> list[ResultObject]:
    """Return one result object per form."""
    return [
        ResultObject(
            form=form,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4",
            sop_instance_uid=f"{study}.77.{position}",
            series_instance_uid=f"{study}.78.{position}",
            path=f"results/{study}/{form}.dcm",
            digest="d" * 64,
            size=10,
        )
        for position, form in enumerate(forms)
    ]
