"""Rounds of chaos: studies under way, a step or two armed in each, whoever dies started again, and a checker."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from tests.chaos.checker import Verdict, has_every_form, judge, lost
from tests.chaos.modality import Modality, Studies, StudyOnTheWay, acknowledged_in
from tests.chaos.sabotage.sitecustomize import ARMED, FOLDER, HITS, STEPS, Step
from tests.chaos.tally import Tally
from tests.support.network import free_port
from tests.support.node import Node
from tests.support.orthanc import Orthanc, running_orthanc

QUIET_SECONDS: Final = 2.5
SILENCE_SECONDS: Final = QUIET_SECONDS - 1.0
"""So long a gap between two acknowledgements may have been the quiet time for the node: answers take time, too."""
STUCK_SECONDS: Final = 120.0
"""A study is stuck where its results are not there so long after its last image was acknowledged, and no other's came
in the meantime: on a machine that is busy with other things they queue for the model."""
HIT_SECONDS: Final = 60.0
_STEPS_PER_ROUND = 2
_MOST_OPEN = 6
_MOST_RESTARTS = 3  # of one role: its back-off grows with each; then the whole node is killed and started
_RANDOM_SHARE = 0.2
_ALL_SHARE = 0.25
_LOSING_SHARE = 0.5  # of those times that all processes are killed at any moment
_LONGEST_MOMENT = 3.0  # [s]
_LOOK_SECONDS = 0.02
_PATIENCE_SECONDS = 6.0  # with the occurrence that the dice chose: there may be no such one
_ROLE_PREFIX = ARMED.partition("{")[0]


class Chaos:
    """A node, an archive and a modality for any number of rounds; a context manager.

    Parameters
    ----------
    folder
        Keeps all: node, archive, images, wire log, hits.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.tally = Tally(seed)
        self._dice = random.Random(seed)
        self._folder = folder
        self._started = time.monotonic()
        self._stack = ExitStack()
        self._pacs_port = free_port()
        pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": self._pacs_port}
        settings = {
            "study.quiet_seconds": QUIET_SECONDS,
            # The node can not tell a runner that we kill from one that its model kills: it would give the job up
            "inference.attempts": 10,
        }
        self._node = Node(folder / "node", [pacs | {"results": ["seg", "sr"]}], settings)
        self._maker = Studies(folder / "images")
        self.wire_log = folder / "wire.jsonl"
        self._modality = Modality(self._node.port, self.wire_log)
        self.studies: list[StudyOnTheWay] = []
        self._open: list[StudyOnTheWay] = []
        self._restarts: Counter[str] = Counter()
        self._went_on_at = time.monotonic()

    def __enter__(self) -> Self:
        self.wire_log.touch()
        self._stack.enter_context(_sabotage(self._folder))
        self.orthanc: Orthanc = self._stack.enter_context(
            running_orthanc(self._folder / "orthanc", dicom_port=self._pacs_port)
        )
        self._stack.callback(self._node.kill)
        self._stack.callback(self._modality.end)
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def data_dir(self) -> Path:
        """The node's data directory."""
        return self._node.data_dir

    @property
    def seconds(self) -> float:
        """How long this has been going on [s]."""
        return time.monotonic() - self._started

    def round(self, number: int) -> str:
        """Break one or two steps, and sometimes whatever runs at any moment; return a line about it."""
        began = time.monotonic()
        self._settle(_MOST_OPEN - 1)
        self._send()
        if self._dice.random() < _RANDOM_SHARE:
            said = self._kill_at_any_moment()
        else:
            said = self._break(number, self._choose())
        self.tally.rounds += 1
        return f"round {number}: {said}; {time.monotonic() - began:.1f} s, {len(self._open)} studies under way"

    def finish(self) -> Tally:
        """Let all come to rest, kill and start the node once more, and judge everything; return what was counted."""
        self._settle(0)
        self._kill_all(losing=True)
        self._send()  # when its results are there, all that was owed before it has been dealt with
        self._settle(0)
        acknowledged = acknowledged_in(self.wire_log)
        self.tally.studies = len(self.studies)
        self.tally.acknowledged = sum(map(len, acknowledged.values()))
        for study in self.studies:
            self._count(study, judge(self.orthanc, study, SILENCE_SECONDS))
            if gone := lost(self.data_dir, study.uid, acknowledged.get(study.uid, set())):
                self.tally.lost += len(gone)
                self.tally.problems.append(f"study {study.number} ({study.uid}): {len(gone)} instances lost")
        self.tally.seconds = self.seconds
        return self.tally

    def _count(self, study: StudyOnTheWay, verdict: Verdict) -> None:
        tally = self.tally
        tally.results += len(verdict.current)
        tally.earlier += len(verdict.earlier)
        tally.twice += len(verdict.twice)
        tally.missing += len(verdict.missing)
        if verdict.twice or verdict.missing:
            tally.problems.append(
                f"study {study.number} ({study.uid}): twice {verdict.twice}, missing {verdict.missing}, "
                f"silent for {study.gap:.1f} s"
            )

    def _send(self) -> None:
        study = self._maker.make(len(self.studies))
        self.studies.append(study)
        self._open.append(study)
        self._modality.send(study)

    def _settle(self, most: int) -> None:
        """Wait until no more studies than `most` are under way; one that is stuck is on record, and no longer."""
        began = time.monotonic()
        while True:
            self._look_after_the_node()
            for study in list(self._open):
                if self._is_delivered(study):
                    self._open.remove(study)
                    self._went_on_at = time.monotonic()
                elif time.monotonic() - max(study.done_at or began, self._went_on_at) > STUCK_SECONDS:
                    self._open.remove(study)
                    self.tally.stuck += 1
                    self.tally.problems.append(f"study {study.number} ({study.uid}) is stuck; {len(study.left)} unsent")
            if len(self._open) <= most:
                return
            _pause(0.1)

    def _choose(self) -> list[Step]:
        """Return steps of different roles, those with the fewest hits first."""
        order = sorted(STEPS, key=lambda step: (self.tally.hits[step.name], self._dice.random()))
        chosen: list[Step] = []
        for step in order:
            if len(chosen) < _STEPS_PER_ROUND and step.role not in {each.role for each in chosen}:
                chosen.append(step)
        return chosen

    def _break(self, number: int, steps: list[Step]) -> str:
        """Arm the steps and wait until each was hit; the node is started again wherever it died."""
        before = sum(self.tally.hits.values())
        words = []
        for step in steps:
            of_all = self._dice.random() < _ALL_SHARE
            occurrence = self._dice.randint(1, step.most)
            self._arm({"round": number, "step": step.name, "occurrence": occurrence, "all": of_all}, step.role)
            words.append(f"{step.name} ({occurrence}., {'all' if of_all else step.role})")
        deadline = time.monotonic() + HIT_SECONDS
        patient_until = time.monotonic() + _PATIENCE_SECONDS
        while self._armed() and time.monotonic() < deadline:
            self._look_after_the_node()
            if time.monotonic() > patient_until:
                patient_until = time.monotonic() + _PATIENCE_SECONDS
                self._make_it_likelier()
            _pause(_LOOK_SECONDS)
        missed = self._armed()
        for left in missed:
            left.unlink(missing_ok=True)
        while self._read_hits() - before < len(steps) - len(missed) and time.monotonic() < deadline:
            _pause(_LOOK_SECONDS)  # it takes the order away before it writes the hit down
        self._look_after_the_node()
        hit = self._read_hits() - before
        self.tally.kills += hit
        self._note_restarts({step.role for step in steps})
        return f"{', '.join(words)}: {hit} hit"

    def _arm(self, order: dict[str, object], role: str) -> None:
        draft = self._folder / "draft.json"
        draft.write_text(json.dumps(order))
        draft.rename(self._folder / ARMED.format(role=role))

    def _make_it_likelier(self) -> None:
        """Take the next occurrence of what is armed still, and send another study that may come to it."""
        for path in self._armed():
            with suppress(FileNotFoundError):  # it was hit just now
                self._arm(json.loads(path.read_bytes()) | {"occurrence": 1}, path.stem.removeprefix(_ROLE_PREFIX))
        self._open = [study for study in self._open if not self._is_delivered(study)]
        if len(self._open) < _MOST_OPEN:
            self._send()

    def _is_delivered(self, study: StudyOnTheWay) -> bool:
        return study.done_at is not None and has_every_form(self.orthanc, study)

    def _armed(self) -> list[Path]:
        return list(self._folder.glob(ARMED.format(role="*")))

    def _read_hits(self) -> int:
        path = self._folder / HITS
        lines = path.read_text().splitlines() if path.exists() else []
        self.tally.hits = Counter(json.loads(line)["step"] for line in lines)
        return len(lines)

    def _kill_at_any_moment(self) -> str:
        _pause(self._dice.uniform(0.0, _LONGEST_MOMENT))
        self.tally.random_kills += 1
        everyone = self._node.processes()
        if self._dice.random() < _ALL_SHARE:
            losing = self._dice.random() < _LOSING_SHARE
            self._kill_all(losing=losing)
            return f"all processes at any moment{', and the database is lost' if losing else ''}"
        victims = self._dice.sample(everyone, self._dice.randint(1, len(everyone)))
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        self.tally.kills += 1
        self._note_restarts({step.role for step in STEPS})
        return f"{len(victims)} of {len(everyone)} processes at any moment"

    def _note_restarts(self, roles: set[str]) -> None:
        self._restarts.update(roles - {"runner"})  # which its keeper starts again at once
        if max(self._restarts.values(), default=0) >= _MOST_RESTARTS:
            self._kill_all()

    def _kill_all(self, *, losing: bool = False) -> None:
        """Kill the whole node and start it; before that, let its database be gone where `losing` says so."""
        self.tally.kills += 1
        self._node.kill()
        self._demand_nothing_lost()
        if losing:
            self.tally.databases += 1
            for path in self.data_dir.glob("hilum.db*"):
                path.unlink()
        self._start()
        self._restarts.clear()

    def _start(self) -> None:
        """Start the node, again where an armed step ended it before every role was at work."""
        while True:
            try:
                self._node.start()
            except AssertionError:
                process = self._node.process
                if process is None or process.wait(20) != -signal.SIGKILL:
                    raise
                self._node.kill()
            else:
                return

    def _look_after_the_node(self) -> None:
        """Start the node again where its supervisor died."""
        process = self._node.process
        if process is None or process.poll() is None:
            return
        self._node.kill()
        self._demand_nothing_lost()
        self._start()
        self._restarts.clear()

    def _demand_nothing_lost(self) -> None:
        """Look for what was acknowledged of the studies under way, while the node is down."""
        acknowledged = acknowledged_in(self.wire_log)
        for study in self._open:
            if gone := lost(self.data_dir, study.uid, acknowledged.get(study.uid, set())):
                self.tally.problems.append(f"study {study.number} ({study.uid}): {len(gone)} not on the disk")


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


@contextmanager
def _sabotage(folder: Path) -> Iterator[None]:
    """Have every role that is started from here on lie in wait for an armed step of `folder`."""
    saboteur = str(Path(__file__).parent / "sabotage")
    found = os.environ.get("PYTHONPATH")
    changed = {FOLDER: str(folder), "PYTHONPATH": os.pathsep.join([saboteur, *([found] if found else [])])}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
