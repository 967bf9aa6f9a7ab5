"""How an analysis went, in words: what `job.details` says, of which older jobs and those that failed have less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from study.entities import Job
from study.states import JobState

STEPS: Final = ("load", "decode", "preprocess", "inference", "postprocess", "measure", "prior", "encode")
"""Of an analysis, in their order."""

_ATTEMPT: Final = {JobState.QUEUED: ", its last attempt", JobState.RUNNING: ", the attempt before this one"}
"""Of which attempt the record of a job is that has not ended."""

_TOLD_APART: Final = frozenset({"precision", "compiled", "seed", "deterministic"})


def in_order(seconds: Mapping[str, Any]) -> list[str]:
    """Return the names of steps in the order in which they are made; those that nobody knows come last."""
    return [step for step in STEPS if step in seconds] + [step for step in seconds if step not in STEPS]


def course(job: Job) -> Iterator[str]:
    """Give what is on record of how a job went, a line each; nothing where nothing is."""
    lines = [words for words in _lines(job) if words]
    if lines:
        yield f"Job {job.id}, {job.model_name}{_ATTEMPT.get(job.state, '')}:"
        yield from (f"  {words}" for words in lines)


def _lines(job: Job) -> Iterator[str]:
    details = job.details
    yield _seconds(details.get("seconds") or {})
    yield _stopped(details)
    yield where(details)
    yield how(details.get("running") or {})
    yield from shortage(details)
    if details.get("versions"):
        yield f"bundle SHA-256 {job.model_digest}"
        yield "with " + ", ".join(f"{name} {number}" for name, number in details["versions"].items())


def _seconds(seconds: Mapping[str, float]) -> str:
    if not seconds:
        return ""
    steps = ", ".join(f"{step} {brief(seconds[step])}" for step in in_order(seconds))
    return f"{brief(sum(seconds.values()))} s: {steps}"


def _stopped(details: Mapping[str, Any]) -> str:
    """Return how far an attempt came that was ended from outside, or ended without an answer; "" for others."""
    if "stopped_in" not in details:
        return ""
    step = f"in {details['stopped_in']}" if details["stopped_in"] else "before its first step"
    return f"stopped {step} after {brief(details['stopped_after_seconds'])} s"


def brief(seconds: float) -> str:
    """Return a time [s] as a person compares it: two digits below ten seconds, tenths above."""
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}"


def device_words(details: Mapping[str, Any]) -> str:
    """Return on which device an analysis ran; "" where nothing says it."""
    device, name = details.get("device"), details.get("device_name")
    if not device:
        return ""
    return f"on {device} ({name})" if name and name.lower() != device else f"on {device}"


def where(details: Mapping[str, Any]) -> str:
    """Return where an analysis ran, with how much memory; "" where nothing says it."""
    told = [words for words in [device_words(details)] if words]
    warm = details.get("model_was_warm")
    if warm is not None:
        told.append("the model was loaded already" if warm else "the model was loaded for it")
    return ", ".join(told + [words for words in [peaks(details.get("memory_mb") or {})] if words])


def peaks(memory: Mapping[str, Any]) -> str:
    """Return the most memory that was held; "" where nobody knows."""
    known = [f"{memory[key]} MB {of}" for key, of in (("host_peak", "host"), ("device_peak", "device"))
             if memory.get(key) is not None]  # fmt: skip
    return f"peak memory {', '.join(known)}" if known else ""


def how(running: Mapping[str, Any]) -> str:
    """Return how a network ran, without what is off; "" where nothing says it."""
    told = [str(running["precision"])] if running.get("precision") else []
    if "compiled" in running:
        told.append("compiled" if running["compiled"] else "not compiled")
    if running.get("seed") is not None:
        told.append(f"seed {running['seed']}")
    if "deterministic" in running:
        told.append("deterministic" if running["deterministic"] else "not deterministic")
    others = {key: value for key, value in running.items() if key not in _TOLD_APART and _is_told(value)}
    return ", ".join(told + [f"{key.replace('_', ' ')} {_plain(value)}" for key, value in others.items()])


def shortage(details: Mapping[str, Any]) -> Iterator[str]:
    """Give what was done since memory was short, in its order."""
    for step in details.get("memory_steps") or ():
        yield f"memory was short: {step.get('words') or step.get('step')}"


def _is_told(value: object) -> bool:
    return value is not None and value is not False and not isinstance(value, dict | list)


def _plain(value: object) -> str:
    return "on" if value is True else str(value)
