"""The ``hilum`` command line. Only what a command needs is imported, inside it: ``hilum studies`` starts in a blink."""
# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hilum.models.commands import models
from hilum.options import ConfigOption, JsonOption, SetOption, database_of, settings_of, study_uid
from hilum.recovering import recovering
from hilum.steering import steering
from hilum.tending import tending
from hilum.terminal import complain, say, show_table
from study.errors import ArchiveError

if TYPE_CHECKING:
    from hilum.sources import Sources

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A DICOM node that brings AI results into the radiologist's normal viewer.",
)

app.add_typer(models, name="models")
app.add_typer(steering)
app.add_typer(tending)
app.add_typer(recovering)


@app.command()
def serve(
    role: Annotated[
        str | None, typer.Option(help="Run one role alone: receiver, indexer, archivist, keeper, sender, retainer.")
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
def phantom(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Made where it is missing.")]) -> None:
    """Write a chest CT of nobody, which the shipped model measures: a first study to be sent."""
    from datetime import UTC, datetime

    from hilum.phantom import write_phantom_study

    files = write_phantom_study(folder, datetime.now(UTC))
    say(f"{len(files)} images in {folder}")


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
    problems: Annotated[
        bool,
        typer.Option("--problems", help="What needs a person, whole node over; exit status 1 where something does."),
    ] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """List the studies that the node holds, and what became of each; or, with --problems, what needs a person."""
    from db.overview.queries import list_studies
    from hilum.moments import local
    from hilum.pausing import paused_now
    from hilum.presenting import summary_json, summary_words
    from hilum.problems import show_problems

    settings = settings_of(config, assignments)
    database = database_of(settings)
    if problems:
        raise typer.Exit(1 if show_problems(settings, database, as_json=as_json) else 0)
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
                summary_words(summary),
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
    from db.overview.queries import study_record
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
    from db.delivery import withdrawals
    from db.files.filestore import FileStore
    from db.lasting import removals
    from db.lasting.ledger import note_work
    from db.overview.queries import retry_study
    from hilum.accounts import account
    from hilum.pausing import paused_now
    from hilum.presenting import withdrawal_words

    settings = settings_of(config, assignments)
    database = database_of(settings)
    uid = study_uid(database, study)
    with database.writing() as uow:
        failed, owed = retry_study(uow, uid, settings.shadow_models)
        note_work(uow, FileStore(settings.data_dir), "retried", uid, account())
        uow.commit()
    say(f"{uid}: {failed} failed or refused job(s) and {owed} undelivered result(s) are tried again")
    say(f"refusals are judged anew with the settings of the running node; hilum show {uid} tells how it goes")
    with database.reading() as uow:
        withdrawn, lacks = withdrawals.of_study(uow, uid), removals.why_not_whole(uow, uid)
    if lacks is not None:
        complain(lacks.words)
    for each in withdrawn:
        say(withdrawal_words(each))
    for words in paused_now(database):
        complain(words)


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
        from db.files.filestore import FileStore
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
