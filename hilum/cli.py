"""The ``hilum`` command line. Only what a command needs is imported, inside it: ``hilum studies`` starts in a blink."""
# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hilum.models.commands import models
from hilum.options import ConfigOption, JsonOption, SetOption, database_of, settings_of, study_uid
from hilum.terminal import agrees, complain, say, show_table
from study.errors import ArchiveError, ConfigError
from study.states import Halted

if TYPE_CHECKING:
    from hilum.sources import Sources

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A DICOM node that brings AI results into the radiologist's normal viewer.",
)

app.add_typer(models, name="models")


@app.command()
def serve(
    role: Annotated[
        str | None, typer.Option(help="Run one role alone: receiver, indexer, archivist, keeper or sender.")
    ] = None,
    worker: Annotated[
        int | None, typer.Option(min=1, help="With --role keeper: which of inference.devices, from 1.")
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Run the node: receive studies, analyse them, send the results. Ends on SIGTERM or Ctrl-C, losing nothing."""
    from hilum.serving import serve_all, serve_role

    settings = settings_of(config, assignments)
    if role is None:
        serve_all(settings)
    else:
        serve_role(settings, role, worker)


@app.command()
def demo(
    study: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A study to send; a generated phantom by default.", exists=True)
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results and pictures go.")] = Path("hilum-demo"),
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Show the whole way in one command: a study, the node, a small archive, and the results in it."""
    from hilum.config import load
    from hilum.demo import run_demo

    settings = load(config, assignments or (), file_is_optional=True)
    raise typer.Exit(run_demo(settings, study, out))


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, or folders of them.", exists=True)],
    to: Annotated[str, typer.Option("--to", metavar="PEER", help="The name of a peer in the configuration.")],
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Send DICOM files to a peer."""
    from hilum.network import send_paths

    raise typer.Exit(send_paths(settings_of(config, assignments), to, paths))


@app.command()
def echo(
    peer: Annotated[str, typer.Argument(metavar="PEER", help="The name of a peer in the configuration.")],
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Ask a peer whether it answers (C-ECHO)."""
    from hilum.network import echo_peer

    say(echo_peer(settings_of(config, assignments), peer))


@app.command()
def studies(
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option(min=1, help="How many, the latest first.")] = 100,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """List the studies that the node holds, and what became of each."""
    from db.queries import list_studies
    from hilum.moments import local
    from hilum.pausing import paused_now
    from hilum.presenting import summary_json

    database = database_of(settings_of(config, assignments))
    with database.reading() as uow:
        summaries = list_studies(uow, limit)
    for words in paused_now(database):
        complain(words)  # apart from the list, which programs read
    if as_json:
        say(json.dumps([summary_json(summary) for summary in summaries], indent=1))
        return
    show_table(
        "Studies",
        ("Study Instance UID", "State", "Accession", "Description", "Series", "Instances", "Last received", "Reason"),
        [
            (
                summary.study_instance_uid,
                summary.state.value,
                summary.accession_number,
                summary.study_description,
                str(summary.series),
                str(summary.instances),
                local(summary.last_received_at),
                f"{summary.reason.code}: {summary.reason.words}" if summary.reason else "",
            )
            for summary in summaries
        ],
    )


@app.command()
def show(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A Study Instance UID, its beginning, or an accession number.")
    ],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Tell everything about one study: events, jobs, results and where they are."""
    from db.queries import study_record
    from hilum.presenting import record_json, show_record

    settings = settings_of(config, assignments)
    database = database_of(settings)
    with database.reading() as uow:
        record = study_record(uow, study_uid(database, study))
    if record is None:
        raise ArchiveError(f"No study {study}; hilum studies lists them.")
    if as_json:
        say(json.dumps(record_json(record), indent=1))
    else:
        show_record(record)


@app.command()
def preview(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A Study Instance UID, its beginning, or an accession number.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the pictures go.")] = Path("hilum-preview"),
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Draw a study's results as PNG files: key images, coronal and sagittal planes, a montage."""
    from hilum.previewing import preview_study

    settings = settings_of(config, assignments)
    database = database_of(settings)
    for picture in preview_study(settings, database, study_uid(database, study), out):
        say(str(picture))


@app.command()
def retry(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A Study Instance UID, its beginning, or an accession number.")
    ],
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Try again what failed: analyses, deliveries, and refusals that other settings may lift."""
    from db import withdrawals
    from db.queries import retry_study
    from hilum.pausing import paused_now
    from hilum.presenting import withdrawal_words

    settings = settings_of(config, assignments)
    database = database_of(settings)
    uid = study_uid(database, study)
    with database.writing() as uow:
        failed, owed = retry_study(uow, uid, settings.shadow_models)
        uow.commit()
    say(f"{uid}: {failed} failed or refused job(s) and {owed} undelivered result(s) are tried again")
    say(f"refusals are judged anew with the settings of the running node; hilum show {uid} tells how it goes")
    with database.reading() as uow:
        withdrawn = withdrawals.of_study(uow, uid)
    for each in withdrawn:
        say(withdrawal_words(each))
    for words in paused_now(database):
        complain(words)


@app.command()
def analyse(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A Study Instance UID, its beginning, or an accession number.")
    ],
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Have a study analysed that is only stored: too old, not sent for analysis, fetched, or passed over."""
    from hilum.pausing import paused_now
    from hilum.requesting import analyse as analysed

    settings = settings_of(config, assignments)
    database = database_of(settings)
    uid = study_uid(database, study)
    say(f"{uid} is analysed on request")
    for words in (*analysed(settings, database, uid), *paused_now(database)):
        say(f"  {words}")


@app.command()
def pause(
    only: Annotated[Halted | None, typer.Option(help="Pause only these; both by default.")] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is shown as long as the pause lasts.")] = "",
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Let analyses and deliveries wait, across restarts, until hilum resume; images are received all the same."""
    from hilum.pausing import pause as paused

    for words in paused(database_of(settings_of(config, assignments)), _halted(only), reason):
        say(words)


@app.command()
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
    from hilum import pausing

    database = database_of(settings_of(config, assignments))
    which = _halted(only)
    if pass_over:
        if Halted.ANALYSES not in which:
            raise ConfigError("--pass-over: it is analyses that are passed over; leave --only deliveries out")
        say(pausing.let_go_words(database))
        if not agrees("pass them over?", yes=yes):
            raise typer.Exit(1)
        say(pausing.pass_over(database))
        which = tuple(what for what in which if what is not Halted.ANALYSES)
    for words in pausing.resume(database, which):
        say(words)


def _halted(only: Halted | None) -> tuple[Halted, ...]:
    return tuple(Halted) if only is None else (only,)


@app.command()
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
    from hilum.withdrawing import demand_words, find_job, look, preview, take_back
    from sr_writer.ko.rejection import Rejection

    settings = settings_of(config, assignments)
    database = database_of(settings)
    rejection = Rejection(demand_words(reason), safety)
    with database.reading() as uow:
        job = find_job(uow, result)
        standing = look(uow, settings, job)
    for words in preview(standing, rejection):
        say(words)
    if not standing.results:
        return
    if not agrees("withdraw?", yes=yes):
        raise typer.Exit(1)
    done = take_back(settings, database, job, rejection)
    say(f"{done.objects} object(s) withdrawn; hilum show {job.study_instance_uid} tells how it goes")


@app.command()
def check(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Result objects, or folders of them.", exists=True)
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the source images are; the node's own store by default.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Hold results against their source images, as the node does before it sends them; exit 1 where one fails."""
    from hilum.checking import run_check

    def store() -> Sources:
        from db.filestore import FileStore
        from hilum.sources import StoreSources

        settings = settings_of(config, assignments)
        return StoreSources(database_of(settings), FileStore(settings.data_dir))

    raise typer.Exit(run_check(paths, source, store, as_json=as_json))


@app.command()
def doctor(config: ConfigOption = None, assignments: SetOption = None) -> None:
    """Check configuration, packages, disk, database, ports, peers and devices; exit 1 where something is wrong."""
    from hilum.doctor import examine

    findings = examine(settings_of(config, assignments))
    for finding in findings:
        say(f"{'ok  ' if finding.good else 'FAIL'} {finding.subject}: {finding.words}")
    if not all(finding.good for finding in findings):
        complain("hilum: something above needs mending")
        raise typer.Exit(1)
