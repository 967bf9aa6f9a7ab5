"""``hilum pause`` and ``hilum resume``, and how the other commands say that the node is paused."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from db.engine import Database
from db.files.filestore import FileStore
from db.lasting.ledger import note_words
from db.work import admissions, pauses
from db.work.admissions import Waiting
from db.work.pauses import Pause
from hilum.moments import local
from study.errors import ArchiveError
from study.states import Halted

_MOST_WORDS = 500


def pause(database: Database, store: FileStore, which: Collection[Halted], words: str) -> list[str]:
    """Have analyses, deliveries or both wait from now on; return what holds, in words."""
    reason = " ".join(words.split())[:_MOST_WORDS]
    with database.writing() as uow:
        for what in which:
            pauses.begin(uow, what, reason)
            store.append_ledger({"record": "paused", "what": what.value, "words": reason})
        holds = pauses.pauses(uow)
        uow.commit()
    return list(pause_words(holds))


def resume(database: Database, store: FileStore, which: Collection[Halted]) -> Iterator[str]:
    """Let analyses, deliveries or both go on; give what that means, in words."""
    for what in which:
        with database.writing() as uow:
            ended = pauses.end(uow, what)
            store.append_ledger({"record": "resumed", "what": what.value})
            waits = admissions.waiting_since(uow, ended.since) if ended and what is Halted.ANALYSES else None
            uow.commit()
        if ended is None:
            yield f"{what.value} were not paused"
            continue
        yield f"{what.value} go on; they were paused since {local(ended.since)[:19]}"
        if waits is not None and waits.studies:
            yield f"{_counted(waits)} came since and will be analysed"


def let_go_words(database: Database) -> str:
    """Return what is passed over if the pause of analyses ends so, in numbers.

    Raises
    ------
    ArchiveError
        If analyses are not paused.
    """
    with database.reading() as uow:
        paused = pauses.pauses(uow).get(Halted.ANALYSES)
        if paused is None:
            raise ArchiveError("Analyses are not paused, so nothing was received since that could be passed over.")
        waits = admissions.waiting_since(uow, paused.since)
    return (
        f"{_counted(waits)} came since {local(paused.since)[:19]} and will not be analysed, until somebody sends "
        "images of them again, or hilum analyse STUDY"
    )


def pass_over(database: Database, store: FileStore) -> str:
    """End the pause of analyses, and let go of what came since it began; return what became of it, in words.

    Raises
    ------
    ArchiveError
        If analyses are not paused (any more).
    """
    with database.writing() as uow:
        ended = pauses.end(uow, Halted.ANALYSES)
        if ended is None:
            raise ArchiveError("Analyses are not paused.")
        studies = admissions.pass_over(uow, ended.since)
        for study in studies:
            note_words(uow, store, study)
        store.append_ledger({"record": "resumed", "what": Halted.ANALYSES.value})
        uow.commit()
    return f"{Halted.ANALYSES.value} go on; {_studies(len(studies))} passed over"


def pause_words(holds: Mapping[Halted, Pause]) -> Iterator[str]:
    """Give a line for each thing that is paused: since when, why, and what ends it."""
    for what, each in holds.items():
        why = f" ({each.words})" if each.words else ""
        yield f"{what.value} are paused since {local(each.since)[:19]}{why}; hilum resume lets them go on"


def _counted(waits: Waiting) -> str:
    return f"{_studies(waits.studies)} with {waits.jobs} waiting job{'' if waits.jobs == 1 else 's'}"


def _studies(count: int) -> str:
    return f"{count} {'study' if count == 1 else 'studies'}"


def paused_now(database: Database) -> list[str]:
    """Return what is paused, a line each."""
    with database.reading() as uow:
        return list(pause_words(pauses.pauses(uow)))
