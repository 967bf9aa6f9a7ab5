"""``hilum retention``: what would go now, what is spared and why, and how much is here."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from db.engine import Database
from db.lasting import dispensable
from db.lasting.dispensable import KeptStudy
from hilum.config import Settings
from hilum.moments import local, moment
from hilum.retaining import SPARED_WORDS, amount, counted, limits_of, retention_words
from hilum.terminal import say, show_table

_MOST: Final = 1_000_000  # studies that would go


def show_retention(settings: Settings, database: Database, *, as_json: bool) -> None:
    """Print what retention would remove now, and what it spares of that which is above the limits."""
    limits = limits_of(settings)
    with database.reading() as uow:
        used, now = dispensable.used_bytes(uow), uow.now()
        due = {each.study_instance_uid for each in dispensable.due(uow, limits, _MOST)}
        kept = dispensable.kept_studies(uow, limits)
    if as_json:
        said = settings.retention.model_dump() | {"bytes": used}
        studies = [_json(each, is_due=each.study_instance_uid in due) for each in kept]
        say(json.dumps({"retention": said, "studies": studies}, indent=1))
        return
    for words in retention_words(settings):
        say(words)
    if not settings.retention.is_on:
        say("retention is off: nothing is removed; try limits by --set retention.days=N or --set retention.max_gb=N")
    say(f"here: {amount(used)} of images and results, {counted(len(kept))}")
    going = [each for each in kept if each.study_instance_uid in due]
    say(f"would go now: {amount(sum(each.size for each in going))}, {counted(len(going))}")
    _show(going, spared=False)
    _show(list(_held(kept, due, settings, now, used)), spared=True)


def _held(
    kept: Sequence[KeptStudy], due: Collection[str], settings: Settings, now: datetime, used: int
) -> Iterator[KeptStudy]:
    """Yield the studies that would go if nothing spared them."""
    limits = limits_of(settings)
    excess = used - limits.most_bytes if limits.most_bytes is not None else 0
    for each in kept:
        is_old = limits.days is not None and each.last_received_at < now - timedelta(days=limits.days)
        if not is_old and excess <= 0:
            return
        excess -= each.size
        if each.study_instance_uid not in due and each.ground is not None:
            yield each


def _show(studies: Sequence[KeptStudy], *, spared: bool) -> None:
    if studies:
        show_table(
            "Spared" if spared else "Would go",
            ("Study Instance UID", "Last received", "Size", *(["Spared, since"] if spared else [])),
            [
                (
                    each.study_instance_uid,
                    local(each.last_received_at)[:19],
                    amount(each.size),
                    *([SPARED_WORDS[each.ground]] if each.ground else []),
                )
                for each in studies
            ],
        )


def _json(each: KeptStudy, *, is_due: bool) -> dict[str, Any]:
    return {
        "study_instance_uid": each.study_instance_uid,
        "last_received_at": moment(each.last_received_at),
        "bytes": each.size,
        "goes": is_due,
        "spared_by": None if each.ground is None else each.ground.value,
    }
