"""What each role loads, what the entry point refuses, what keeper and runner say to each other."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest

from hilum.backing_off import back_off
from hilum.config import Settings
from hilum.processes import spawn
from hilum.sections import DeliverySettings
from hilum.supervisor import Supervisor
from hilum.working.wire import Answer, News, Request, Warm, order_of, report_of
from study.entities import ResultObject
from study.errors import Reason
from study.headers import InstanceHeader
from tests.support.peers import REPOSITORY

HEAVY = {"torch", "monai", "highdicom"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return {name.partition(".")[0] for name in run.stdout.split()}


@pytest.mark.parametrize(
    ("role", "forbidden"),
    [
        ("receiver", HEAVY | {"sqlalchemy", "scipy"}),
        ("indexer", HEAVY | {"pynetdicom"}),
        ("archivist", HEAVY),
        ("keeper", HEAVY | {"pynetdicom"}),
        ("sender", HEAVY),
        ("retainer", HEAVY | {"pynetdicom"}),
        ("supervisor", HEAVY),
    ],
)
def test_a_role_loads_only_its_own_wings(role: str, forbidden: set[str]) -> None:
    assert not modules_after(f"import hilum.roles.{role}") & forbidden


def test_the_runner_knows_no_database_and_no_network() -> None:
    assert not modules_after("import hilum.roles.runner") & {"sqlalchemy", "pynetdicom"}


def test_the_command_line_starts_without_any_wing() -> None:
    assert not modules_after("import hilum.cli") & (HEAVY | {"pynetdicom", "sqlalchemy", "numpy", "pydantic"})


def test_a_foreign_package_is_named_before_it_is_used(tmp_path: Path) -> None:
    foreign = tmp_path / "scp"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("raise SystemExit('a foreign package was imported')")
    run = subprocess.run(
        [sys.executable, "-c", "from hilum.main import main; main()", "studies"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert run.returncode == 2
    assert "another distribution provides packages that Hilum needs: scp" in run.stderr
    assert str(foreign) in run.stderr
    assert "virtual environment of its own" in run.stderr


def test_requests_and_answers_survive_the_wire() -> None:
    header = InstanceHeader("1.2", "1.3", "1.4", "1.5", image_type=("A", "B"), image_position_patient=(0.5, 1.0, 2.0))
    request = Request(
        1, 2, "m", "d", (("/a", header),), "i", {"x": [1]}, "p", "2026-01-02T03:04:05+00:00", "/out", "2.25.1", "s"
    )
    assert Request.from_bytes(request.to_bytes()) == request
    result = ResultObject("seg", "1.2", "1.3", "1.4", "results/a", "d", 9)
    answer = Answer(1, 2, "done", (result,), {"seconds": 1.5})
    assert Answer.from_bytes(answer.to_bytes()) == answer
    news, warm = News("inference", on_cpu=True), Warm("lung_ct")
    assert [report_of(said.to_bytes()) for said in (answer, news)] == [answer, news]
    assert [order_of(order.to_bytes()) for order in (request, warm)] == [request, warm]


def test_a_crash_is_tried_again_where_it_was_a_job_s() -> None:
    request = Request(7, 2, "m", "d", (), "i", {}, "p", "2026-01-02T03:04:05+00:00", "/out", "2.25.1", "s")
    crash = Answer.of_crash("It stopped.", request, {"seconds": {}})
    assert (crash.job_id, crash.attempt, crash.outcome, crash.transient) == (7, 2, "failed", True)
    assert (crash.reason, crash.details) == (Reason("UnexpectedError", "It stopped."), {"seconds": {}})
    ahead = Answer.of_crash("It stopped.")
    assert (ahead.job_id, ahead.attempt, ahead.outcome, ahead.transient) == (0, 0, "failed", False)


def test_back_off_doubles_to_its_bound_and_is_slow_for_a_problem() -> None:
    settings = DeliverySettings(retry_seconds=2, retry_max_seconds=30, problem_retry_seconds=900)
    pauses = [back_off(settings, attempts, problem=False) for attempts in (1, 2, 3, 10, 10_000)]
    for pause, expected in zip(pauses, (2, 4, 8, 30, 30), strict=True):
        assert expected * 0.9 <= pause <= expected * 1.1
    slow = [back_off(settings, attempts, problem=True) for attempts in (1, 2, 10)]
    assert all(810 <= pause <= 990 for pause in slow)


@pytest.mark.parametrize("problem", [False, True])
def test_what_failed_at_one_moment_does_not_all_come_back_at_one(problem: bool) -> None:
    pauses = {back_off(DeliverySettings(), 3, problem=problem) for _ in range(50)}
    assert len(pauses) > 40
    assert max(pauses) - min(pauses) > 0.05 * min(pauses)


def test_a_stack_is_logged_without_what_libraries_say_of_the_data(tmp_path: Path) -> None:
    code = """
import sys, pathlib, structlog
from hilum.journal import open_journal
from study.errors import ArchiveError
open_journal(pathlib.Path(sys.argv[1]), "test", "info")
def break_down():
    try:
        raise ValueError("Secretus^Homo")
    except ValueError as error:
        raise ArchiveError("our own words") from error
try:
    break_down()
except ArchiveError:
    structlog.get_logger().exception("it.broke")
"""
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    logged = (tmp_path / "test.jsonl").read_text()
    for text in (logged, run.stderr):
        assert "break_down" in text
        assert "ArchiveError: our own words" in text
        assert "ValueError" in text
        assert "Secretus" not in text


def no_process(*_arguments: object, **_options: object) -> NoReturn:
    raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_process_that_can_not_be_started_costs_no_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", no_process)
    before = open_descriptors()
    for _ in range(3):
        with pytest.raises(OSError, match="unavailable"):
            spawn("indexer", Settings())
    assert open_descriptors() == before


def test_a_role_that_can_not_be_started_again_just_now_is_tried_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hilum.supervisor.spawn", no_process)
    supervisor = Supervisor(Settings(), lambda _host, _port: None)
    post = next(post for post in supervisor._posts if post.role == "indexer")
    post.restart_at = 0.0
    supervisor._restart_due()
    assert post.child is None
    assert post.restart_at > time.monotonic()
    assert post.back_off > 0.5


def test_what_does_not_fit_into_a_log_is_told_once_and_without_what_it_was_about(tmp_path: Path) -> None:
    program = """
import sys, pathlib, resource, signal, structlog
from hilum.journal import open_journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
open_journal(pathlib.Path(sys.argv[1]), "test", "info")
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
for _ in range(3):
    try:
        raise ValueError("Secret^Sally")
    except ValueError:
        structlog.get_logger().info("what.happened", exc_info=True, filler="x" * 20000)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stderr == "hilum: test.jsonl can not be written; entries are missing there\n"
