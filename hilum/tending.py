"""The commands for a study that is stuck here, or was lost elsewhere: discard, resend."""
# ruff: noqa: PLC0415 - as in hilum.cli: only what a command needs is imported, inside it

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from hilum.moments import local
from hilum.options import ConfigOption, JsonOption, SetOption, database_of, settings_of, study_uid
from hilum.terminal import agrees, complain, say
from study.errors import ArchiveError

if TYPE_CHECKING:
    from db.files.filestore import FileStore
    from db.overview.tending import Failed, Sendable
    from hilum.config import Settings

tending = typer.Typer()

_StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A Study Instance UID, its beginning, or an accession number.")
]


@tending.command()
def discard(
    study: _StudyArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Let go of what failed in a study, on record: it is no problem any more, and not tried. Nothing is deleted."""
    from db.files.filestore import FileStore
    from db.lasting.ledger import note_work
    from db.overview import tending as tended
    from hilum.accounts import account

    settings = settings_of(config, assignments)
    database = database_of(settings)
    uid, destinations = study_uid(database, study), [peer.name for peer in settings.destinations]
    with database.reading() as uow:
        failed = tended.failed(uow, uid, destinations)
    if not failed:
        say(f"nothing of {uid} failed, so there is nothing to discard")
        return
    for words in (f"{uid}:", *_discarded(failed)):
        say(words)
    if settings.retention.is_on:
        say("  retention may remove the study then")
    if not agrees("discard?", yes=yes):
        raise typer.Exit(1)
    by = account()
    with database.writing() as uow:
        tended.discard(uow, uid, destinations, by)
        note_work(uow, FileStore(settings.data_dir), "discarded", uid, by)
        uow.commit()
    say(f"discarded; hilum retry {uid} tries it again")


@tending.command()
def resend(
    study: _StudyArgument,
    to: Annotated[str | None, typer.Option("--to", metavar="PEER", help="Only to this peer.")] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Send the results that peers took already once more, the same bytes: after a PACS lost them, or got a new disk."""
    from db.files.filestore import FileStore
    from db.lasting import removals
    from db.lasting.ledger import note_work
    from db.overview import tending as tended
    from hilum.accounts import account
    from hilum.pausing import paused_now

    settings = settings_of(config, assignments)
    database = database_of(settings)
    uid = study_uid(database, study)
    _demand_destination(settings, to)
    with database.writing() as uow:
        sent = [each for each in tended.sendable(uow, uid) if to in (None, each.peer)]
        chosen = [each for each in sent if not _why_left_out(settings, each)]
        removals.demand_results(uow, {each.job for each in chosen}, "nothing is sent again. A backup may have them.")
        _demand_files(FileStore(settings.data_dir), chosen)
        by = account()
        done = tended.resend(uow, uid, chosen, by) if chosen else 0
        withdrawn = tended.taken_back(uow, uid)
        if done:
            note_work(uow, FileStore(settings.data_dir), "resent", uid, by)
        uow.commit()
    for peer, count in Counter(each.peer for each in chosen).items():
        say(f"{uid}: {count} object(s) are sent to {peer} again")
    for words in _left_out(settings, sent, withdrawn):
        say(words)
    if not done:
        say(f"{uid}: no result that {to or 'a peer'} took, so there is nothing to send again")
    for words in paused_now(database):
        complain(words)


@tending.command()
def retention(
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Tell what retention would remove now, and what it spares and why. Nothing is removed by this command."""
    from hilum.kept import show_retention

    settings = settings_of(config, assignments)
    show_retention(settings, database_of(settings), as_json=as_json)


def _discarded(failed: Failed) -> Iterator[str]:
    """Give what is let go of, a line each."""
    for job, model in failed.jobs:
        yield f"  {model}, job {job}: it stays FAILED"
    for peer, count in failed.owed.items():
        yield f"  {peer}: {count} object(s) are not sent, and kept here"
    for peer, count in failed.asked.items():
        yield f"  {peer}: {count} object(s) that it stored; it is still asked to commit itself"
    for peer, count in failed.rejections.items():
        yield f"  {peer}: {count} rejection(s) that it does not heed count as seen to: the results are removed there"
    if failed.outdated:
        yield f"  {failed.outdated} result object(s) of images that were rejected since; they stay where they are"
    if failed.unread:
        yield f"  {failed.unread} Key Object(s) that may reject images are not heeded"
    if failed.reports:
        yield f"  {failed.reports} refusal report(s) are not written"
    if failed.discarded_at:
        yield f"  discarded before, on {local(failed.discarded_at)[:19]}"


def _demand_destination(settings: Settings, to: str | None) -> None:
    names = [peer.name for peer in settings.destinations]
    if to is not None and to not in names:
        raise ArchiveError(f"--to {to}: no peer of this name is sent results; these are: {', '.join(names) or 'none'}")


def _demand_files(store: FileStore, chosen: Sequence[Sendable]) -> None:
    """Make sure that each result's file is here, with the bytes that were sent; else nothing changes."""
    from hashlib import sha256

    for each in {each.object.path: each for each in chosen}.values():
        path = store.root / each.object.path
        try:
            good = sha256(path.read_bytes()).hexdigest() == each.object.digest
        except OSError as error:
            raise ArchiveError(
                f"{path} can not be read ({type(error).__name__}), so nothing is sent again; restore it from a backup."
            ) from error
        if not good:
            raise ArchiveError(f"{path} is not what was sent, so nothing is sent again; restore it from a backup.")


def _why_left_out(settings: Settings, each: Sendable) -> str:
    if each.peer not in [peer.name for peer in settings.destinations]:
        return f"the configuration sends {each.peer} nothing any more"
    if each.model in settings.shadow_models:
        return f"the entry of {each.model} has deliver = false"
    return ""


def _left_out(settings: Settings, sent: Sequence[Sendable], withdrawn: int) -> Iterator[str]:
    """Give what is not sent again, and why, a line each."""
    reasons = Counter(why for each in sent if (why := _why_left_out(settings, each)))
    for why, count in reasons.items():
        yield f"  left out: {count} object(s), since {why}"
    if withdrawn:
        yield f"  left out: {withdrawn} object(s), since they were withdrawn"
