"""The commands by which a person steers what is analysed and sent: analyse, pause, resume, withdraw."""
# ruff: noqa: PLC0415 - as in hilum.cli: only what a command needs is imported, inside it

from __future__ import annotations

from typing import Annotated

import typer

from hilum.options import ConfigOption, SetOption, database_of, settings_of, study_uid
from hilum.terminal import agrees, complain, say
from study.errors import ConfigError
from study.states import Halted, Which

steering = typer.Typer()


@steering.command()
def analyse(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A Study Instance UID, its beginning, or an accession number.")
    ],
    versions: Annotated[
        Which | None,
        typer.Option(help="Of images that came again with other pixels: which are right, for good (PixelsChanged)."),
    ] = None,
    with_rejected: Annotated[
        bool, typer.Option("--with-rejected", help="Analyse images all the same that a Key Object rejected.")
    ] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Have a study analysed that is only stored: too old, not sent for analysis, fetched, or passed over."""
    from hilum.pausing import paused_now
    from hilum.requesting import analyse as analysed

    settings = settings_of(config, assignments)
    database = database_of(settings)
    uid = study_uid(database, study)
    becomes = list(analysed(settings, database, uid, with_rejected=with_rejected, which=versions))
    say(f"{uid} is analysed on request")
    for words in (*becomes, *paused_now(database)):
        say(f"  {words}")


@steering.command()
def pause(
    only: Annotated[Halted | None, typer.Option(help="Pause only these; both by default.")] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is shown as long as the pause lasts.")] = "",
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Let analyses and deliveries wait, across restarts, until hilum resume; images are received all the same."""
    from db.files.filestore import FileStore
    from hilum.pausing import pause as paused

    settings = settings_of(config, assignments)
    for words in paused(database_of(settings), FileStore(settings.data_dir), _halted(only), reason):
        say(words)


@steering.command()
def resume(
    only: Annotated[Halted | None, typer.Option(help="Resume only these; both by default.")] = None,
    pass_over: Annotated[
        bool, typer.Option("--pass-over", help="Do not analyse what was received since analyses were paused.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --pass-over: do not ask.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Let analyses and deliveries go on that were paused."""
    from db.files.filestore import FileStore
    from hilum import pausing

    settings = settings_of(config, assignments)
    database, store = database_of(settings), FileStore(settings.data_dir)
    which = _halted(only)
    if pass_over:
        if Halted.ANALYSES not in which:
            raise ConfigError("--pass-over: it is analyses that are passed over; leave --only deliveries out")
        say(pausing.let_go_words(database))
        if not agrees("pass them over?", yes=yes):
            raise typer.Exit(1)
        say(pausing.pass_over(database, store))
        which = tuple(what for what in which if what is not Halted.ANALYSES)
    for words in pausing.resume(database, store, which):
        say(words)


def _halted(only: Halted | None) -> tuple[Halted, ...]:
    return tuple(Halted) if only is None else (only,)


@steering.command()
def withdraw(
    result: Annotated[
        str,
        typer.Argument(
            metavar="RESULT",
            help="SOP Instance UID of any object of a result, its beginning, or its study where that has one analysis.",
        ),
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; archives and their readers see it.")],
    safety: Annotated[
        bool, typer.Option("--safety", help="A patient may come to harm by it: rejected for patient safety reasons.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Take a result back: what did not go out stays here, what a peer has is rejected there by a Key Object."""
    from db.delivery.withdrawals import of_study
    from hilum.pausing import paused_now
    from hilum.presenting import withdrawal_words
    from hilum.withdrawing import demand_words, find_job, look, preview, take_back
    from sr_writer.ko.rejection import Rejection

    settings = settings_of(config, assignments)
    database = database_of(settings)
    rejection = Rejection(demand_words(reason), safety)
    with database.reading() as uow:
        job = find_job(uow, result)
        standing = look(uow, settings, job)
        done_before = [each for each in of_study(uow, job.study_instance_uid) if each.job_id == job.id]
    if not standing.results:
        for each in done_before:
            say(withdrawal_words(each))
        return
    for words in preview(standing, rejection):
        say(words)
    if not agrees("withdraw?", yes=yes):
        raise typer.Exit(1)
    done = take_back(settings, database, job, rejection)
    say(f"{done.objects} object(s) withdrawn; hilum show {job.study_instance_uid} tells how it goes")
    for words in paused_now(database):
        complain(words)
