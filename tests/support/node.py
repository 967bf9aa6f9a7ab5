"""A real node for tests: ``hilum serve`` as its own processes, with a configuration and folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import psutil
from pydicom import dcmread
from pydicom.misc import is_dicom

from db.engine import Database
from db.overview.queries import list_studies, study_record
from study.entities import StudyRecord
from tests.support.network import free_port, wait_until
from tests.support.peers import DCMTK_ENVIRONMENT, program

HILUM = str(Path(sys.executable).parent / "hilum")
AS_INSTALLED = str(Path(__file__).parent / "as_installed")
"""Before what is installed for the tests alone."""
MODALITY = "MODALITY"


class Node:
    """``hilum serve`` under test.

    Parameters
    ----------
    folder
        Holds config.toml and the node's data.
    peers
        Tables of ``[[peers]]``; the sending modality is always among them.
    settings
        Further keys by dotted name ("study.quiet_seconds").
    """

    def __init__(
        self, folder: Path, peers: list[Mapping[str, Any]] | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.port = int((settings or {}).get("node.port", 0)) or free_port()
        self.config = folder / "config.toml"
        self.data_dir = folder / "var"
        self.database_url = str((settings or {}).get("database.url", f"sqlite:///{self.data_dir / 'hilum.db'}"))
        self.process: subprocess.Popen[bytes] | None = None
        keys: dict[str, Any] = {
            "node.ae_title": "HILUM",
            "node.bind": "127.0.0.1",
            "node.port": self.port,
            "node.data_dir": "var",
            "node.disk_reserve_mb": 0,
            "study.quiet_seconds": 0.5,
            "geometry.frame_of_reference": "by_position",
            "results.refusal_delay_seconds": 0,
            "delivery.retry_seconds": 0.3,
            "delivery.retry_max_seconds": 0.5,
            "delivery.problem_retry_seconds": 0.5,
            "node.reception_log_mb": 32,  # the full size is filled at each start
        } | dict(settings or {})
        everyone: list[Mapping[str, Any]] = [{"name": "modality", "ae_title": MODALITY}, *(peers or [])]
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(_toml(keys, everyone))

    def start(self) -> Node:
        """Start the node and wait until every role is at work."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HILUM_")}
        before = [environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else []
        environment["PYTHONPATH"] = os.pathsep.join([*before, AS_INSTALLED])
        with (self.folder / "serve.log").open("ab") as errors:
            self.process = subprocess.Popen(
                [HILUM, "serve", "--config", str(self.config)],
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.folder,
                env=environment,
            )
        if self.process.stdout is None:
            raise AssertionError("no standard output")
        said = list(takewhile(lambda line: " listens on " not in line, (each.decode() for each in self.process.stdout)))
        assert self.process.poll() is None, f"{said}; {(self.folder / 'serve.log').read_text()[-2000:]}"
        return self

    def stop(self) -> int:
        """Ask the node to end and return its exit status."""
        if self.process is None:
            return 0
        self.process.terminate()
        status = self.process.wait(40)
        self._forget()
        return status

    def kill(self) -> None:
        """Kill every process of the node at once."""
        if self.process is None:
            return
        family = self.processes()
        for member in family:
            try:
                member.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=20)
        self.process.wait(20)
        self._forget()

    def processes(self) -> list[psutil.Process]:
        """Return the node's processes, the supervisor first."""
        if self.process is None:
            return []
        try:
            supervisor = psutil.Process(self.process.pid)
        except psutil.NoSuchProcess:  # it was killed, and its roles with it
            return []
        return [supervisor, *supervisor.children(recursive=True)]

    def process_of(self, role: str) -> psutil.Process:
        """Return the (first) process of a role."""
        for member in self.processes()[1:]:
            try:
                command = member.cmdline()
            except psutil.NoSuchProcess:  # it ended meanwhile, which is what tests here are about
                continue
            if "hilum.roles" in command and command[command.index("hilum.roles") + 1] == role:
                return member
        raise AssertionError(f"no process of role {role}")

    def records(self) -> list[StudyRecord]:
        """Return what the node knows of every study."""
        database = Database.open(self.database_url)
        try:
            with database.reading() as uow:
                found = [study_record(uow, summary.study_instance_uid) for summary in list_studies(uow, 100)]
        finally:
            database.close()
        return [record for record in found if record is not None]

    def wait_for_state(self, *states: str, seconds: float = 90, studies: int = 1) -> list[StudyRecord]:
        """Wait until there are so many studies, each in one of the states."""

        records: list[StudyRecord] = []

        def there() -> bool:
            records[:] = self.records()
            return len(records) == studies and all(record.summary.state.value in states for record in records)

        try:
            wait_until(there, seconds, f"{studies} studies in {states}")
        except AssertionError as error:
            seen = [(r.summary.state.value, [(j.state.value, j.reason) for j in r.jobs]) for r in self.records()]
            log = (self.folder / "serve.log").read_text()[-3000:]
            raise AssertionError(f"{error}; seen: {seen}; {log}") from None
        return records

    def record_of(self, study_instance_uid: str) -> StudyRecord | None:
        """Return what the node knows of a study; None where it knows none."""
        database = Database.open(self.database_url)
        try:
            with database.reading() as uow:
                return study_record(uow, study_instance_uid)
        finally:
            database.close()

    def wait_for_study(self, study_instance_uid: str, *states: str, seconds: float = 90) -> StudyRecord:
        """Wait until a study, of however many, is in one of the states."""
        found: list[StudyRecord | None] = []

        def there() -> bool:
            found[:] = [self.record_of(study_instance_uid)]
            return any(record is not None and record.summary.state.value in states for record in found)

        try:
            wait_until(there, seconds, f"{study_instance_uid} in {states}")
        except AssertionError as error:
            log = (self.folder / "serve.log").read_text()[-3000:]
            raise AssertionError(f"{error}; seen: {found}; {log}") from None
        (record,) = found
        assert record is not None
        return record

    def send(
        self,
        folder: Path,
        *,
        check: bool = True,
        port: int | None = None,
        called: str = "HILUM",
        calling: str = MODALITY,
    ) -> subprocess.CompletedProcess[bytes]:
        """Send the DICOM files of a folder with DCMTK's storescu, to the node or to another port."""
        storescu = program("storescu", package="dcmtk")
        titles = ["-aet", calling, "-aec", called]
        command = [storescu, "-R", "--max-send-pdu", "131072", *titles, "127.0.0.1", str(port or self.port)]
        files = [str(path) for path in sorted(folder.rglob("*")) if path.is_file() and is_dicom(path)]
        return subprocess.run([*command, *files], check=check, capture_output=True, env=DCMTK_ENVIRONMENT, timeout=300)

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a hilum command with the node's configuration."""
        return subprocess.run(
            [HILUM, *arguments, "--config", str(self.config)], check=check, capture_output=True, text=True, timeout=120
        )

    def _forget(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None


@contextmanager
def running(node: Node) -> Iterator[Node]:
    """Run a node and kill it at the end, whatever happened."""
    try:
        yield node.start()
    finally:
        node.kill()


def study_in(folder: Path) -> str:
    """Return the Study Instance UID of the first DICOM file of a folder."""
    path = next(path for path in sorted(folder.rglob("*")) if path.is_file() and is_dicom(path))
    return str(dcmread(path, specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


def results_of(record: StudyRecord) -> dict[str, list[str]]:
    """Return the SOP Instance UIDs of a study's results by form."""
    found: dict[str, list[str]] = {}
    for _, result in record.results:
        found.setdefault(result.form, []).append(result.sop_instance_uid)
    return found


def _toml(keys: Mapping[str, Any], peers: list[Mapping[str, Any]]) -> str:
    sections: dict[str, dict[str, Any]] = {}
    for key, value in keys.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    for peer in peers:
        lines += ["[[peers]]", *(f"{name} = {json.dumps(value)}" for name, value in peer.items())]
    lines += ["[[models]]", 'name = "lung_ct"', 'bundle = "builtin:lung_ct"']
    return "\n".join(lines) + "\n"
