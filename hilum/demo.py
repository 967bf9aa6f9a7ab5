"""The whole way in one command: a study, the node with its real processes, a small archive, and the results in it."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.progress import Progress

from db.engine import Database
from db.overview.queries import list_studies, study_record
from hilum.config import Settings
from hilum.entries import ModelSettings, PeerSettings
from hilum.network import dicom_files
from hilum.phantom import write_phantom_study
from hilum.planning import read_cards
from hilum.previewing import SourceImages, draw_results, source_images
from hilum.processes import Child, spawn
from hilum.sections import NodeSettings, ResultSettings, StudySettings
from hilum.terminal import complain, console, is_terminal, say, show_table
from hilum.wording import reason_words
from scp.archive import Archive
from scp.association.requesting import Peer
from scp.sending.sender import send_files
from sr_writer.reading.report import Report, read_report
from sr_writer.sr.rounding import unit_words
from study.entities import Job, ResultObject, StudyRecord
from study.errors import ArchiveError, HilumError
from study.forms import Form
from study.states import StudyState

_SENDER = "DEMO_MODALITY"
_ARCHIVE = "DEMO_PACS"
_START_SECONDS = 120.0
_LOOK_SECONDS = 0.1
_ENDED = {StudyState.DELIVERED, StudyState.REFUSED, StudyState.FAILED, StudyState.NOT_SELECTED}
_WRITTEN = "written-by-demo.json"


def run_demo(settings: Settings, study: Path | None, out: Path) -> int:
    """Send a study through a node of its own and show what reaches the archive.

    Parameters
    ----------
    settings
        Models, study and geometry are taken from here; the rest is the demo's own.
    study
        A folder of DICOM files; None makes a phantom.
    out
        Results and pictures go here; what an earlier demo left there is removed first.

    Returns
    -------
    int
        Exit status: 0 if every result that was due reached the archive.
    """
    read_cards(_with_models(settings))
    out.mkdir(parents=True, exist_ok=True)
    _clear(out)
    home = Path(tempfile.mkdtemp(prefix="hilum-demo-"))
    try:
        status = _run(settings, study, out, home)
    except HilumError as error:
        complain(f"hilum: {error.code}: {error.words}")
        complain(f"hilum: the demo's node, with its logs and the images, is kept in {home}")
        return 1
    shutil.rmtree(home)
    return status


def _run(settings: Settings, study: Path | None, out: Path, home: Path) -> int:
    images = _images(study, home)
    say(f"{len(images)} images from {study or 'a generated thorax phantom'}")
    with Archive(home / "archive", _ARCHIVE) as archive:
        own = _demo_settings(settings, home, archive.port)
        with _node(own) as node:
            port = _port_of(node)
            say(f"{own.node.ae_title} listens on 127.0.0.1:{port}, the archive {_ARCHIVE} on 127.0.0.1:{archive.port}")
            database = Database.open(own.database_url)
            try:
                records = _follow(own, node, port, images, database)
                return _report(records, archive.paths, partial(source_images, own, database), out)
            finally:
                database.close()


def _images(study: Path | None, home: Path) -> list[Path]:
    if study is None:
        return write_phantom_study(home / "phantom", datetime.now(UTC))
    images = dicom_files([study])
    if not images:
        raise ArchiveError(f"There is no DICOM file in {study}.")
    return images


def _with_models(settings: Settings) -> Settings:
    models = settings.models or {"lung_ct": ModelSettings(name="lung_ct", bundle="builtin:lung_ct")}
    return settings.model_copy(update={"models": models})


def _demo_settings(settings: Settings, home: Path, archive_port: int) -> Settings:
    quick = {} if "quiet_seconds" in settings.study.model_fields_set else {"quiet_seconds": 1.0}
    peers = {
        "modality": PeerSettings(name="modality", ae_title=_SENDER),
        "archive": PeerSettings(
            name="archive",
            ae_title=_ARCHIVE,
            host="127.0.0.1",
            port=archive_port,
            results=(Form.SEG, Form.SR, Form.REFUSAL),
        ),
    }
    node = NodeSettings(
        bind="127.0.0.1", port=0, data_dir=home / "node", receivers=1, disk_reserve_mb=0, reception_log_mb=32
    )
    study = StudySettings(**(settings.study.model_dump() | quick | {"max_age_days": 0}))  # whatever study is shown
    results = ResultSettings(**(settings.results.model_dump() | {"refusal_delay_seconds": 0}))
    return _with_models(settings).model_copy(
        update={"results": results, "node": node, "peers": peers, "study": study, "database": type(settings.database)()}
    )


@contextlib.contextmanager
def _node(settings: Settings) -> Iterator[Child]:
    """Run a node."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    child = spawn("supervisor", settings)
    try:
        yield child
    finally:
        child.terminate()
        child.reap()


def _port_of(child: Child) -> int:
    watchdog = threading.Timer(_START_SECONDS, child.kill)
    watchdog.start()
    facts = child.wait_until_ready()
    watchdog.cancel()
    if facts is None:
        raise ArchiveError("The node did not start.")
    return int(facts["port"])


@dataclass
class _Stage:
    """Where the demo stands, for the progress line."""

    sent: int = 0
    done: bool = False
    failure: HilumError | None = None


def _follow(
    settings: Settings, child: Child, port: int, images: Sequence[Path], database: Database
) -> list[StudyRecord]:
    """Send the images and watch the node until every study has come to an end."""
    stage = _Stage()
    node = Peer("node", settings.node.ae_title, "127.0.0.1", port)
    sending = threading.Thread(target=_send, args=(node, images, stage), daemon=True)
    sending.start()
    last = ""
    with Progress(console=console(), transient=True, disable=not is_terminal()) as progress:
        bar = progress.add_task("sending", total=len(images))
        while True:
            records = _records(database)
            if stage.failure:
                raise stage.failure
            if child.process.poll() is not None:
                raise ArchiveError("The node ended.")
            words = _progress_words(records, len(images), stage)
            progress.update(bar, completed=sum(r.summary.instances for r in records), description=words)
            if words != last and not is_terminal():
                say(words)
            last = words
            if stage.done and records and all(record.summary.state in _ENDED for record in records):
                return records
            time.sleep(_LOOK_SECONDS)


def _send(node: Peer, images: Sequence[Path], stage: _Stage) -> None:
    try:
        for sent in send_files(node, _SENDER, images):
            if sent.error is not None:
                raise sent.error
            stage.sent += 1
    except HilumError as error:
        stage.failure = error
    finally:
        stage.done = True


def _records(database: Database) -> list[StudyRecord]:
    with database.reading() as uow:
        summaries = list_studies(uow, 100)
        records = [study_record(uow, summary.study_instance_uid) for summary in summaries]
    return [record for record in records if record is not None]


def _progress_words(records: Sequence[StudyRecord], total: int, stage: _Stage) -> str:
    received = sum(record.summary.instances for record in records)
    if not stage.done or received < min(total, stage.sent) or not records:
        return f"received {received} of {total}"
    states = {record.summary.state for record in records}
    words = {
        StudyState.RECEIVING: f"received {received} of {total}; waiting until the study is complete",
        StudyState.COMPLETE: "complete",
        StudyState.PROCESSING: "analysing",
        StudyState.REPORTED: "delivering",
    }
    return next((text for state, text in words.items() if state in states), "done")


def _report(
    records: Sequence[StudyRecord], archive: Mapping[str, Path], sources: Callable[[Job], SourceImages], out: Path
) -> int:
    """Say what became of each study, and put results and pictures into `out`; return the exit status."""
    written: list[Path] = []
    analysed, missing = True, 0
    for record in records:
        say(f"study {record.summary.study_instance_uid}: {record.summary.state.value}")
        analysed &= record.summary.state is StudyState.DELIVERED
        _say_why_not(record)
        for job in _current(record):
            results = [result for job_id, result in record.results if job_id == job.id]
            arrived = [
                (result, archive[result.sop_instance_uid]) for result in results if result.sop_instance_uid in archive
            ]
            missing += len(results) - len(arrived)
            written += _show_results(arrived, out)
            if arrived:
                written += _draw(written[-len(arrived) :], sources(job), out, job.model_name)
    # Kept for the next demo in this folder, which removes these files and no others.
    (out / _WRITTEN).write_text(json.dumps([path.name for path in written]))
    if missing:
        complain(f"hilum: {missing} of the results that were due did not reach the archive")
    return 0 if analysed and written and not missing else 1


def _current(record: StudyRecord) -> list[Job]:
    """Return the jobs of the study's newest revision: a slow sender may have made an older one."""
    return [job for job in record.jobs if job.current]


def _say_why_not(record: StudyRecord) -> None:
    for job in _current(record):
        if job.reason:
            complain(f"hilum: {job.model_name}: not analysed: {reason_words(job.reason)}")
    if record.summary.state is StudyState.NOT_SELECTED:
        complain(f"hilum: not analysed: {reason_words(record.summary.reason)}")
    for delivery in record.deliveries:
        if delivery.reason:
            complain(f"hilum: {delivery.result.form}: {reason_words(delivery.reason)}")


def _show_results(arrived: Sequence[tuple[ResultObject, Path]], out: Path) -> list[Path]:
    """Copy results out of the archive, and print what a report among them says."""
    copies = []
    for result, path in arrived:
        copy = out / f"{result.form}-{result.sop_instance_uid[-12:]}.dcm"
        shutil.copyfile(path, copy)
        copies.append(copy)
        if result.form == "sr":
            _show_report(read_report(copy))
    return copies


def _show_report(report: Report) -> None:
    rows = [
        (
            finding.label,
            f"{row.name} ({row.derivation})" if row.derivation else row.name,
            f"{row.value:g}",
            unit_words(row.unit),
        )
        for finding in report.findings
        for row in finding.measurements
    ]
    show_table(f"{report.model_name} {report.model_version}", ("Finding", "Measurement", "Value", "Unit"), rows)
    for finding in report.findings:
        for remark in finding.remarks:
            say(f"{finding.label}: {remark}")
    for limit in report.limits:
        say(limit)


def _draw(results: Sequence[Path], source: SourceImages, out: Path, name: str) -> list[Path]:
    """Draw the pictures of a result; return them."""
    pictures = draw_results(results, source, out, name)
    for path in (*results, *pictures):
        say(str(path))
    return pictures


def _clear(out: Path) -> None:
    """Remove what an earlier demo wrote into the folder, and nothing else."""
    record = out / _WRITTEN
    if not record.exists():
        return
    for name in json.loads(record.read_text()):
        (out / Path(name).name).unlink(missing_ok=True)
    record.unlink()
