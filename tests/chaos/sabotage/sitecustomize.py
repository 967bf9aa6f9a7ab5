"""Kills a process of the node at the boundary of a durable step; Python imports this at its start from PYTHONPATH.

The product has no hooks: what is called at a boundary is wrapped from outside, in the roles' processes alone. Which
step is armed stands in a file of the folder that the environment names; whoever reaches it takes the file away, says so
in the file of hits, durably, and kills itself or the whole node.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = "CHAOS_FOLDER"
"""Of the environment: where the armed step and the hits are."""
ARMED, HITS = "armed-{role}.json", "hits.jsonl"
_DEEPEST = 25  # frames between a boundary and the function that it belongs to


@dataclass(frozen=True)
class Step:
    """A moment on a study's way at which the process may end.

    Parameters
    ----------
    call
        What is called at the boundary: ``module:attribute``.
    within
        The function on whose behalf: the end of its file's path and its name, ``scp/receiving/inbox.py:commit``. Any if
        empty.
    after
        Whether the moment is behind the call; else before it.
    argument
        The first argument that the call must have; any if empty.
    most
        The occurrence that is armed is one of the first so many of the process.
    """

    name: str
    role: str
    call: str
    within: str = ""
    after: bool = True
    argument: str = ""
    most: int = 1


_COMMIT = "db.engine:UnitOfWork.commit"
_MANIFEST = "db.files.filestore:FileStore.append_manifest"
_RECORD, _LOG = "scp.receiving.reception_log:IncomingRecord", "scp/receiving/reception_log.py"
_INDEXER, _KEEPER, _SENDER = (f"hilum/roles/{role}.py" for role in ("indexer", "keeper", "sender"))

STEPS = (
    Step("received, not in the log", "receiver", f"{_RECORD}.commit", after=False, most=10),
    Step("in the log, not synced", "receiver", "os:fdatasync", f"{_LOG}:commit", after=False, most=10),
    Step("durable, not answered", "receiver", "os:fdatasync", f"{_LOG}:commit", most=10),
    Step("some files split", "indexer", "db.files.splitting:_write", most=4),
    Step("split, not renamed", "indexer", "db.files.splitting:_sync", most=4),
    Step("some files renamed", "indexer", "db.files.splitting:_publish", most=4),
    Step("renamed, not marked", "indexer", "db.files.splitting:Splitter._make_files", most=2),
    Step("before the index commit", "indexer", _COMMIT, f"{_INDEXER}:_index", after=False, most=2),
    Step("indexed, files not moved", "indexer", _COMMIT, f"{_INDEXER}:_index", most=2),
    Step("some files moved", "indexer", "db.files.filestore:_move", most=4),
    Step("all files moved", "indexer", "db.files.filestore:FileStore.move_in", most=2),
    Step("before the study is closed", "indexer", _COMMIT, f"{_INDEXER}:_close", after=False),
    Step("study closed", "indexer", _COMMIT, f"{_INDEXER}:_close"),
    Step("job leased", "keeper", _COMMIT, f"{_KEEPER}:turn"),
    Step("answered, nothing written", "keeper", _MANIFEST, f"{_KEEPER}:_finish", after=False),
    Step("job in the manifest", "keeper", _MANIFEST, f"{_KEEPER}:_finish"),
    Step("job's end committed", "keeper", _COMMIT, f"{_KEEPER}:_finish"),
    Step("model running", "runner", "inference.account:Account.step", after=False, argument="inference"),
    Step("an object written", "runner", "sr_writer.saving:save", most=2),
    Step("all objects written", "runner", "hilum.pipeline:write_results"),
    Step("delivery leased", "sender", _COMMIT, f"{_SENDER}:_lease"),
    Step("peer answered", "sender", "hilum.roles.sender:Courier._store_at_peer", most=2),
    Step("delivery in the manifest", "sender", _MANIFEST, f"{_SENDER}:_store_one", most=2),
    Step("delivery committed", "sender", _COMMIT, f"{_SENDER}:_store_one", most=2),
)


class Saboteur:
    """Counts, in one process, how often the armed step was reached, and ends the process when it is its turn."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._round = -1
        self._count = 0

    def reached(self, step: Step) -> None:
        """End the process if it is this step's armed occurrence."""
        armed = self._folder / ARMED.format(role=step.role)
        try:
            order = json.loads(armed.read_bytes())
        except FileNotFoundError:
            return
        if order["step"] != step.name:
            return
        if order["round"] != self._round:
            self._round, self._count = order["round"], 0
        self._count += 1
        if self._count < order["occurrence"]:
            return
        try:
            armed.unlink()
        except FileNotFoundError:  # another process was faster
            return
        self._write_down(order)
        if order["all"]:
            _kill_the_others()
        os.kill(os.getpid(), signal.SIGKILL)

    def _write_down(self, order: dict[str, Any]) -> None:
        descriptor = os.open(self._folder / HITS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, json.dumps({"round": order["round"], "step": order["step"]}).encode() + b"\n")
        os.fsync(descriptor)
        os.close(descriptor)


def _kill_the_others() -> None:
    """Kill the supervisor and all that is below it, but this process."""
    import psutil

    supervisor = psutil.Process()
    while (above := supervisor.parent()) is not None and "serve" in above.cmdline():
        supervisor = above
    if "serve" not in supervisor.cmdline():  # a runner's parent is its keeper
        supervisor = next(each for each in psutil.Process().parents() if "serve" in each.cmdline())
    for each in (supervisor, *supervisor.children(recursive=True)):
        if each.pid != os.getpid():
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue


def _is_within(place: str) -> bool:
    path, _, name = place.rpartition(":")
    frame = sys._getframe(2)
    for _ in range(_DEEPEST):
        if frame.f_code.co_name == name and frame.f_code.co_filename.endswith(path):
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False


def wrapped(call: Callable[..., Any], steps: Sequence[Step], saboteur: Saboteur) -> Callable[..., Any]:
    """Return `call` with the boundaries of `steps` around it."""

    @functools.wraps(call)
    def bounded(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever the product passes
        here = [
            step
            for step in steps
            if (not step.within or _is_within(step.within)) and (not step.argument or step.argument in arguments)
        ]
        for step in here:
            if not step.after:
                saboteur.reached(step)
        result = call(*arguments, **named)
        for step in here:
            if step.after:
                saboteur.reached(step)
        return result

    return bounded


def _wrap(module: ModuleType, saboteur: Saboteur) -> None:
    by_attribute: dict[str, list[Step]] = {}
    for step in STEPS:
        name, _, attribute = step.call.partition(":")
        if name == module.__name__ or (name == "os" and module is os):
            by_attribute.setdefault(attribute, []).append(step)
    for attribute, steps in by_attribute.items():
        *way, last = attribute.split(".")
        owner: Any = functools.reduce(getattr, way, module)
        setattr(owner, last, wrapped(getattr(owner, last), steps, saboteur))


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, saboteur: Saboteur) -> None:
        self._loader = loader
        self._saboteur = saboteur

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _wrap(module, self._saboteur)


class _Finder(importlib.abc.MetaPathFinder):
    """Wraps what belongs to a step as soon as its module is imported."""

    def __init__(self, saboteur: Saboteur) -> None:
        self._saboteur = saboteur
        self._modules = {step.call.partition(":")[0] for step in STEPS}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._saboteur)
        return spec


def _lie_in_wait(folder: Path) -> None:
    saboteur = Saboteur(folder)
    _wrap(os, saboteur)
    sys.meta_path.insert(0, _Finder(saboteur))


if FOLDER in os.environ and "hilum.roles" in sys.orig_argv:
    _lie_in_wait(Path(os.environ[FOLDER]))
