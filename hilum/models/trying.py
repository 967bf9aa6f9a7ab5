"""``hilum models test``: what each model says of each series of a study, from the headers alone; nothing is run."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilum.config import Settings
from hilum.models.studies import Folder, read_folder, study_of_node
from hilum.planning import judge, read_cards, reasons_against, verdicts_of
from hilum.presenting import reason_json, show_verdicts, verdict_json
from hilum.terminal import complain, say
from hilum.wording import place_words, reason_words
from inference.catalog import ModelCard
from study.entities import Verdict
from study.errors import Reason
from study.headers import InstanceHeader
from study.identity import identity_conflicts
from study.states import VerdictOutcome

Series = Mapping[str, Sequence[InstanceHeader]]


@dataclass(frozen=True)
class Opinion:
    """What would become of a study for one model.

    Parameters
    ----------
    runs_on
        The series that it would run on; None where it would not run.
    reasons
        Why it would not; empty also where no series is its kind.
    """

    model_name: str
    runs_on: Verdict | None
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class Trial:
    """What the models say of one study; `conflicts` keep all of them from running."""

    study_instance_uid: str
    series: int
    instances: int
    conflicts: tuple[Reason, ...]
    verdicts: tuple[Verdict, ...]
    opinions: tuple[Opinion, ...]

    @property
    def runs(self) -> bool:
        """Tell whether a model would run."""
        return any(opinion.runs_on for opinion in self.opinions)


def run_test(settings: Settings, text: str, *, as_json: bool) -> int:
    """Print what the models say of a study, or of every study in a folder.

    Parameters
    ----------
    text
        A folder, or what stands for a study of the node's database.

    Returns
    -------
    int
        Exit status: 0 where at least one model would run on each study.

    Raises
    ------
    ArchiveError
        If there is no such folder or study.
    """
    cards = read_cards(settings)
    folder = read_folder(Path(text)) if Path(text).is_dir() else None
    studies = folder.studies if folder else _of_node(settings, text)
    trials = [try_models(settings, cards, uid, series) for uid, series in sorted(studies.items())]
    if as_json:
        say(json.dumps({"files": _files_json(folder), "studies": [_trial_json(trial) for trial in trials]}, indent=1))
    else:
        _show(folder, trials)
    if not trials:
        complain(f"hilum: there is no DICOM study in {text}")
    return 0 if trials and all(trial.runs for trial in trials) else 1


def try_models(settings: Settings, cards: Mapping[str, ModelCard], study_instance_uid: str, series: Series) -> Trial:
    """Return what each model says of each series of a study."""
    conflicts = identity_conflicts(header for headers in series.values() for header in headers)
    verdicts: list[Verdict] = []
    opinions = []
    for card in cards.values():
        selection = judge(settings, card, series)
        own = verdicts_of(card, selection)
        chosen = next((verdict for verdict in own if verdict.outcome is VerdictOutcome.CHOSEN), None)
        reasons = reasons_against(settings, card, selection, conflicts)
        opinions.append(Opinion(card.name, None if reasons else chosen, reasons))
        verdicts += own
    instances = sum(len(headers) for headers in series.values())
    return Trial(study_instance_uid, len(series), instances, conflicts, tuple(verdicts), tuple(opinions))


def _of_node(settings: Settings, text: str) -> dict[str, dict[str, list[InstanceHeader]]]:
    seen = study_of_node(settings, text)
    series = {uid: [each.header for each in instances] for uid, instances in seen.series.items()}
    return {seen.study_instance_uid: series}


def _show(folder: Folder | None, trials: Sequence[Trial]) -> None:
    if folder:
        for words in _files_words(folder):
            say(words)
    for trial in trials:
        say(f"Study {trial.study_instance_uid}: {trial.series} series, {trial.instances} instances")
        for reason in trial.conflicts:
            say(f"  no model would run: {reason_words(reason)}")
        show_verdicts(trial.verdicts)
        told = [*trial.conflicts, *(reason for verdict in trial.verdicts for reason in verdict.reasons)]
        for opinion in trial.opinions:
            say(f"  {_opinion_words(opinion, told)}")
        if not trial.opinions:
            say("  no model is configured")


def _files_words(folder: Folder) -> Iterator[str]:
    if folder.not_dicom:
        yield f"not DICOM: {_files_of(folder.not_dicom)}"
    if folder.copies:
        yield f"copies of an instance that another file holds: {_files_of(folder.copies)}"
    for path, words in folder.left_out:
        yield f"can not be indexed: {path}: {words}"


def _files_of(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def _opinion_words(opinion: Opinion, told: Collection[Reason]) -> str:
    """Return what would become of a study for a model; of reasons that were told above, the codes."""
    if opinion.runs_on:
        return f"{opinion.model_name} would run on {place_words(opinion.runs_on)}"
    why = [reason.code if reason in told else reason_words(reason) for reason in opinion.reasons]
    return f"{opinion.model_name} would not run: {', '.join(why) or 'no series is its kind'}"


def _files_json(folder: Folder | None) -> dict[str, Any] | None:
    if folder is None:
        return None
    left_out = [{"path": str(path), "words": words} for path, words in folder.left_out]
    return {"not_dicom": folder.not_dicom, "copies": folder.copies, "left_out": left_out}


def _trial_json(trial: Trial) -> dict[str, Any]:
    return {
        "study_instance_uid": trial.study_instance_uid,
        "series": trial.series,
        "instances": trial.instances,
        "conflicts": [reason_json(reason) for reason in trial.conflicts],
        "models": [
            {
                "model": opinion.model_name,
                "runs": opinion.runs_on is not None,
                "series_instance_uid": opinion.runs_on.series_instance_uid if opinion.runs_on else None,
                "stack": opinion.runs_on.stack if opinion.runs_on else None,
                "reasons": [reason_json(reason) for reason in opinion.reasons],
            }
            for opinion in trial.opinions
        ],
        "verdicts": [verdict_json(verdict) for verdict in trial.verdicts],
    }
