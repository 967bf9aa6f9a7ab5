"""What the node knows, as tables for a person and as JSON for a program; the JSON is described in docs/json.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from db.lasting.removals import PART_OF_REMOVED, STUDY_REMOVED
from hilum.archives.comparisons import comparison_json, comparison_words, search_json, search_words
from hilum.archives.presenting import inquiry_json, inquiry_words
from hilum.committing.presenting import commitment_json, commitment_words
from hilum.course import course
from hilum.moments import local, moment
from hilum.rejections import rejection_json, rejection_words
from hilum.terminal import say, show_table
from hilum.timeline import timeline_json, timeline_rows
from hilum.wording import outcome_words, reason_words, why_words
from study.entities import Delivery, Event, Job, Removal, ResultObject, StudyRecord, StudySummary, Verdict, Withdrawal
from study.errors import Reason
from study.states import DeliveryState, StudyState

_OWED: Final = frozenset({DeliveryState.PENDING, DeliveryState.STORED})


def reason_json(reason: Reason | None) -> dict[str, Any] | None:
    """Return a refusal or failure: its stable code, words, numbers."""
    return None if reason is None else {"code": reason.code, "words": reason.words, "numbers": dict(reason.numbers)}


def summary_json(summary: StudySummary) -> dict[str, Any]:
    """Return one entry of ``hilum studies --json``."""
    return {
        "study_instance_uid": summary.study_instance_uid,
        "state": summary.state.value,
        "patient_id": summary.patient_id,
        "accession_number": summary.accession_number,
        "study_description": summary.study_description,
        "series": summary.series,
        "instances": summary.instances,
        "first_received_at": moment(summary.first_received_at),
        "last_received_at": moment(summary.last_received_at),
        "discarded_at": moment(summary.discarded_at),
        "removal": _removal_json(summary.removal),
        "reason": reason_json(summary.reason),
    }


def record_json(record: StudyRecord) -> dict[str, Any]:
    """Return what ``hilum show STUDY --json`` prints."""
    return summary_json(record.summary) | {
        "revision": record.revision,
        "series_list": list(record.series),
        "verdicts": [verdict_json(verdict) for verdict in record.verdicts],
        "jobs": [_job_json(job) for job in record.jobs],
        "results": [_result_json(job_id, result, record.deliveries) for job_id, result in record.results],
        "other_versions": [
            {
                "sop_instance_uid": version.header.sop_instance_uid,
                "digest": version.digest,
                "path": version.path,
                "received_at": moment(version.received_at),
                "standing": record.standings.get((version.header.sop_instance_uid, version.digest)),
            }
            for version in record.other_versions
        ],
        "timeline": timeline_json(record),
        "completeness": inquiry_json(record.inquiry),
        "prior_searches": [search_json(search) for search in record.prior_searches],
        "withdrawals": [_withdrawal_json(withdrawal) for withdrawal in record.withdrawals],
        "rejections": [rejection_json(rejection) for rejection in record.rejections],
        "events": [_event_json(event) for event in record.events],
    }


def _withdrawal_json(withdrawal: Withdrawal) -> dict[str, Any]:
    return {
        "job": withdrawal.job_id,
        "at": moment(withdrawal.at),
        "account": withdrawal.account,
        "words": withdrawal.words,
        "safety": withdrawal.safety,
        "objects": withdrawal.objects,
    }


def _removal_json(removal: Removal | None) -> dict[str, Any] | None:
    if removal is None:
        return None
    return {"at": moment(removal.at), "instances": removal.instances, "missing": removal.missing}


def removal_words(summary: StudySummary) -> str:
    """Return that retention removed the study, and what came of it again; "" where it did not."""
    removal = summary.removal
    if removal is None:
        return ""
    removed = f"removed on {local(removal.at)[:19]}, {removal.instances} images"
    if summary.reason is not None and summary.reason.code in (PART_OF_REMOVED, STUDY_REMOVED):
        return removed  # the reason tells the rest
    if not summary.instances:
        return f"{removed}; results that were sent stay valid" if summary.state is StudyState.DELIVERED else removed
    if not removal.missing:
        return f"{removed}; all of them came again"
    return (
        f"{removed}; {summary.instances} image(s) came since, and {removal.missing} of those are not here: a part of "
        "the study is not analysed. Send the whole study again, or hilum analyse"
    )


def discarded_words(summary: StudySummary) -> str:
    """Return that a person let go of what failed in the study; "" where nobody did."""
    at = summary.discarded_at
    return f"discarded on {local(at)[:19]}; hilum retry tries it again" if at else ""


def standing_words(record: StudyRecord) -> Iterator[str]:
    """Give what became of versions of images that do not count, a line each."""
    told = {
        "replaced": "other version(s) that newer bytes took the place of",
        "same": "version(s) that show the same in another encoding",
        "discounted": "version(s) that a person said are wrong",
    }
    counts = Counter(record.standings.values())
    for standing, words in told.items():
        if counts[standing]:
            yield f"{counts[standing]} {words}; they are kept"


def summary_words(summary: StudySummary) -> str:
    """Return why the study is in its state, and whether a person let go of what failed in it."""
    reason = f"{summary.reason.code}: {summary.reason.words}" if summary.reason else ""
    return " ".join(filter(None, (reason, discarded_words(summary), removal_words(summary))))


def withdrawal_words(withdrawal: Withdrawal) -> str:
    """Return what was taken back of a study's results, by whom, when and why."""
    why = "for patient safety" if withdrawal.safety else "for quality"
    return (
        f"job {withdrawal.job_id}: {withdrawal.objects} object(s) withdrawn {why} on {local(withdrawal.at)[:19]} by "
        f"{withdrawal.account}: {withdrawal.words}"
    )


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Return what a model says of a series."""
    return {
        "model": verdict.model_name,
        "series_instance_uid": verdict.series_instance_uid,
        "series_number": verdict.series_number,
        "series_description": verdict.series_description,
        "stack": verdict.stack,
        "outcome": verdict.outcome.value,
        "reasons": [reason_json(reason) for reason in verdict.reasons],
    }


def _job_json(job: Job) -> dict[str, Any]:
    return {
        "job": job.id,
        "model": job.model_name,
        "model_digest": job.model_digest,
        "revision": job.revision,
        "series_instance_uid": job.series_instance_uid,
        "state": job.state.value,
        "current": job.current,
        "priority": job.priority,
        "attempt": job.attempt,
        "crashes": job.crashes,
        "interruptions": job.interruptions,
        "created_at": moment(job.created_at),
        "started_at": moment(job.started_at),
        "ended_at": moment(job.ended_at),
        "reason": reason_json(job.reason),
        "details": job.details,
    } | comparison_json(job)


def _result_json(job_id: int, result: ResultObject, deliveries: Sequence[Delivery]) -> dict[str, Any]:
    return {
        "job": job_id,
        "form": result.form,
        "variant": result.variant,
        "sop_class_uid": result.sop_class_uid,
        "sop_instance_uid": result.sop_instance_uid,
        "series_instance_uid": result.series_instance_uid,
        "path": result.path,
        "size": result.size,
        "deliveries": [
            _delivery_json(delivery)
            for delivery in deliveries
            if delivery.job_id == job_id and delivery.result.sop_instance_uid == result.sop_instance_uid
        ],
    }


def _delivery_json(delivery: Delivery) -> dict[str, Any]:
    return {
        "peer": delivery.peer,
        "state": delivery.state.value,
        "attempts": delivery.attempts,
        "problem": delivery.problem,
        "status": None if delivery.status is None else f"{delivery.status:04X}",
        "next_attempt_at": moment(delivery.next_attempt_at) if delivery.state in _OWED else None,
        "stored_at": moment(delivery.stored_at),
        "delivered_at": moment(delivery.delivered_at),
        "commitment": commitment_json(delivery.commitment),
        "reason": reason_json(delivery.reason),
    }


def _event_json(event: Event) -> dict[str, Any]:
    return {
        "at": moment(event.at),
        "event": event.kind,
        "words": event.words,
        "numbers": event.numbers,
        "job": event.job_id,
    }


def show_record(record: StudyRecord) -> None:
    """Print everything about a study for a person."""
    summary = record.summary
    say(f"Study {summary.study_instance_uid}")
    say(
        f"  state {summary.state.value}, revision {record.revision}, {summary.instances} instances, "
        f"{summary.series} series, accession {summary.accession_number or 'none'}"
    )
    if summary.reason:
        say(f"  {reason_words(summary.reason)}")
    if summary.discarded_at:
        say(f"  {discarded_words(summary)}")
    if summary.removal:
        say(f"  {removal_words(summary)}")
    for withdrawal in record.withdrawals:
        say(f"  {withdrawal_words(withdrawal)}")
    for rejection in record.rejections:
        say(f"  {rejection_words(rejection)}")
    for words in standing_words(record):
        say(f"  {words}")
    show_table(
        "Series",
        ("Series Instance UID", "Modality", "Number", "Description", "Instances"),
        list(_rows_of_series(record)),
    )
    show_verdicts(record.verdicts)
    for words in (*inquiry_words(record.inquiry), *search_words(record.prior_searches)):
        say(words)
    show_table(
        "Jobs",
        ("Job", "Model", "State", "Attempt", "Started", "Ended", "Reason"),
        list(_rows_of_jobs(record.jobs)),
    )
    for job in (job for job in record.jobs if job.current):
        for words in (*course(job), *comparison_words(job), *_deviations(job)):
            say(words)
    show_table(
        "Results",
        ("Job", "Form", "Objects", "SOP Instance UID", "File", "Peer", "State", "Attempts", "Next try", "Reason"),
        list(_rows_of_results(record, {job.id for job in record.jobs if job.details.get("shadow")})),
    )
    show_table("Timeline", ("Job", "Step", "Time", "After [s]", "Took [s]"), list(timeline_rows(record)))
    show_table("Events", ("Time", "Event", "Job", "Words"), list(_rows_of_events(record.events)))


def _rows_of_series(record: StudyRecord) -> Iterator[tuple[str, ...]]:
    keys = ("series_instance_uid", "modality", "series_number", "series_description", "instances")
    return (tuple(str(series.get(key, "")) for key in keys) for series in record.series)


def _rows_of_jobs(jobs: Sequence[Job]) -> Iterator[tuple[str, ...]]:
    for job in jobs:
        yield (
            str(job.id),
            job.model_name,
            job.state.value if job.current else f"{job.state.value} (older revision)",
            str(job.attempt),
            local(job.started_at),
            local(job.ended_at),
            reason_words(job.reason),
        )


def _deviations(job: Job) -> Iterator[str]:
    """Give where a peer is not sent what it wished for."""
    for replaced in job.details.get("replaced", ()):
        yield f"  {replaced['peer']} refuses {replaced['form']}: {replaced['by']} is made for it instead"
    for empty in job.details.get("nothing_to_show", ()):
        yield f"  the result has nothing to show as {empty['form']}, so {empty['peer'] or 'nobody'} is sent none"


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print what each model says of each series, for a person."""
    show_table(
        "Series by model",
        ("Model", "Series", "Description", "Stack", "Verdict", "Why", "Series Instance UID"),
        [
            (
                verdict.model_name,
                "" if verdict.series_number is None else str(verdict.series_number),
                verdict.series_description,
                verdict.stack,
                outcome_words(verdict),
                why_words(verdict),
                verdict.series_instance_uid,
            )
            for verdict in verdicts
        ],
    )


def _rows_of_results(record: StudyRecord, kept_here: Collection[int]) -> Iterator[tuple[str, ...]]:
    """Give a row for the objects of a series that stand alike with a peer: pictures come by the hundred."""
    deliveries: dict[tuple[int, str], list[Delivery | None]] = {}
    for delivery in record.deliveries:
        deliveries.setdefault((delivery.job_id, delivery.result.sop_instance_uid), []).append(delivery)
    groups: dict[tuple[str, ...], list[tuple[ResultObject, Delivery | None]]] = {}
    for job_id, result in record.results:
        for owed in deliveries.get((job_id, result.sop_instance_uid)) or [None]:
            standing = _standing(owed, is_kept_here=job_id in kept_here)
            key = (str(job_id), result.form, result.series_instance_uid, *standing)
            groups.setdefault(key, []).append((result, owed))
    for (job, form, _, peer, state), objects in groups.items():
        first, last = objects[0][0], objects[-1][0]
        several = len(objects) > 1
        uid = f"{first.sop_instance_uid} ..." if several else first.sop_instance_uid
        files = f"{first.path} ... {Path(last.path).name}" if several else first.path
        yield (job, form, str(len(objects)), uid, files, peer, state, *_waiting([each for _, each in objects]))


def _standing(delivery: Delivery | None, *, is_kept_here: bool) -> tuple[str, str]:
    if delivery is None:
        return "", "kept here: deliver = false" if is_kept_here else "kept here"
    return delivery.peer, f"{delivery.state.value}{' (problem)' if delivery.problem else ''}"


def _waiting(deliveries: Sequence[Delivery | None]) -> tuple[str, str, str]:
    """Return how often the peer was tried, when it is next, and what it answered."""
    there = [delivery for delivery in deliveries if delivery is not None]
    if not there:
        return "", "", ""
    due = [each.next_attempt_at for each in there if each.state in _OWED]
    words = dict.fromkeys(reason_words(each.reason) for each in there if each.reason)
    words |= dict.fromkeys(commitment_words([each for each in there if each.state is DeliveryState.STORED]))
    return str(max(each.attempts for each in there)), local(min(due)) if due else "", " ".join(words)


def _rows_of_events(events: Sequence[Event]) -> Iterator[tuple[str, str, str, str]]:
    """Give a row for each event; those that say the same of a job one after the other are one."""
    for (kind, job, words), group in groupby(events, key=lambda event: (event.kind, event.job_id, event.words)):
        same = list(group)
        times = f" ({len(same)} times)" if len(same) > 1 else ""
        yield local(same[-1].at), kind, "" if job is None else str(job), f"{words}{times}"
