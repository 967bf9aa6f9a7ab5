"""Which earlier studies were found, used and refused, as lines for a person and as JSON; described in docs/json.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from study.entities import Job
from study.errors import Reason
from study.priors import day_words
from study.searches import FoundStudy, PriorOutcome, PriorSearch, SearchState

_STATES: Final = {
    SearchState.SEARCHING: "the search goes on",
    SearchState.DONE: "the archive was searched",
    SearchState.FAILED: "the archive could not be searched",
}
_OUTCOMES: Final = {
    PriorOutcome.FOUND: "the archive has it; not looked into yet",
    PriorOutcome.FETCHING: "is being fetched",
    PriorOutcome.HERE: "here, and of use",
    PriorOutcome.UNUSABLE: "here, and of no use",
    PriorOutcome.NOT_WANTED: "holds no series that the model may want",
    PriorOutcome.REFUSED: "refused",
    PriorOutcome.FAILED: "could not be fetched",
    PriorOutcome.NOT_NEEDED: "not needed: later ones suffice",
}


def search_words(searches: Sequence[PriorSearch]) -> Iterator[str]:
    """Give what came of the searches for earlier studies, a line each; nothing where none was begun."""
    for search in searches:
        reason = "" if search.reason is None else f": {search.reason.code}: {search.reason.words}"
        named = f", and names {len(search.found)}" if search.state is SearchState.DONE else ""
        yield f"Earlier studies for {search.model_name}: {_STATES[search.state]}{named}{reason}"
        for each in search.found:
            yield f"  {day_words(each.study_date)} {each.study_instance_uid}: {_found_words(each)}"


def _found_words(found: FoundStudy) -> str:
    words = _OUTCOMES[found.outcome]
    return words if found.reason is None else f"{words} ({found.reason.code}: {found.reason.words})"


def comparison_words(job: Job) -> Iterator[str]:
    """Give which earlier studies a job's results are compared with, and why others are not, a line each."""
    failed = {each["study_instance_uid"]: each["words"] for each in job.details.get("priors", ()) if each["words"]}
    for prior in job.parameters.get("priors", ()):
        done = failed.get(prior["study"]) or ("compared with" if job.ended_at else "to be compared with")
        yield f"Job {job.id}, {job.model_name}: study of {day_words(prior['date'])} {prior['study']}: {done}"
    for each in job.parameters.get("not_compared", ()):
        yield f"Job {job.id}, {job.model_name}: {each['code']}: {each['words']}"


def search_json(search: PriorSearch) -> dict[str, Any]:
    """Return what came of a search for earlier studies."""
    return {
        "model": search.model_name,
        "state": search.state.value,
        "reason": _reason_json(search.reason),
        "studies": [
            {
                "study_instance_uid": each.study_instance_uid,
                "study_date": each.study_date,
                "outcome": each.outcome.value,
                "series": dict(each.series),
                "reason": _reason_json(each.reason),
            }
            for each in search.found
        ],
    }


def _reason_json(reason: Reason | None) -> dict[str, Any] | None:
    return None if reason is None else {"code": reason.code, "words": reason.words, "numbers": dict(reason.numbers)}


def comparison_json(job: Job) -> dict[str, Any]:
    """Return which earlier series a job was given, and why others were not."""
    return {
        "priors": [
            {
                "study_instance_uid": prior["study"],
                "study_date": prior["date"],
                "series_instance_uid": prior["series"],
            }
            for prior in job.parameters.get("priors", ())
        ],
        "not_compared": list(job.parameters.get("not_compared", ())),
    }
