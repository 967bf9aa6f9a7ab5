"""``hilum models``: list them, add one, try, time and watch them.

The work is in `hilum.models.adding`, `hilum.models.trying`, `hilum.models.benching` and `hilum.models.watching`.
"""
# ruff: noqa: PLC0415 - as in hilum.cli: only what a command needs is imported, inside it

from __future__ import annotations

from typing import Annotated

import typer

from hilum.options import ConfigOption, JsonOption, SetOption, settings_of
from hilum.terminal import show_table
from study.errors import ConfigError

models = typer.Typer(
    no_args_is_help=False, invoke_without_command=True, help="List the models, add one, test, time and watch them."
)


@models.callback()
def list_models(context: typer.Context, config: ConfigOption = None, assignments: SetOption = None) -> None:
    """List the models that the node runs; or add one, ask what they make of a study, time one, or watch one."""
    if context.invoked_subcommand is not None:
        if config or assignments:
            raise ConfigError(f"write --config and --set behind hilum models {context.invoked_subcommand}")
        return
    from hilum.planning import read_cards
    from hilum.wording import output_names, set_words

    settings = settings_of(config, assignments)
    cards = read_cards(settings)
    show_table(
        "Models",
        ("Name", "Kind", "Version", "Modality", "Gives", "Digest (SHA-256)", "Set", "May run"),
        [
            (
                card.name,
                card.kind,
                card.version,
                ", ".join(card.rule.modality),
                ", ".join(output_names(card)),
                card.digest,
                set_words(settings.models[card.name]),
                card.objection.words if card.objection else "yes",
            )
            for card in cards.values()
        ],
    )


@models.command()
def add(
    path: Annotated[str, typer.Argument(metavar="PATH", help="The bundle's folder.")],
    name: Annotated[str | None, typer.Option(help="What to call the model; the folder's name by default.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Approve this bundle for the model of this name that is there.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Show what a bundle is and does, and write its entry, with its digest, into the configuration file."""
    from hilum.models.adding import run_add

    run_add(config, path, name, replace=replace)


@models.command("test")
def try_study(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY_OR_DIR",
            help="A folder of DICOM files; or a Study Instance UID, its beginning, or an accession number.",
        ),
    ],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Tell which series of a study each model would take, and why not the others; nothing is run.

    Exit status 1 where no model would run on a study.
    """
    from hilum.models.trying import run_test

    raise typer.Exit(run_test(settings_of(config, assignments), study, as_json=as_json))


@models.command()
def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model.")],
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY_OR_DIR",
            help="A folder with the DICOM files of one study; or a Study Instance UID, its beginning, or an accession "
            "number.",
        ),
    ],
    runs: Annotated[int, typer.Option(min=1, max=1000, help="How often.")] = 3,
    device: Annotated[str, typer.Option(help="Where: cpu, cuda:0; by default a GPU where there is one.")] = "auto",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Run a model on a study, here and now, and tell how long each step takes; nothing is stored or sent.

    It also tells how far the result is from that of the bundle as it stands in plain float32, and keeps that.
    """
    from hilum.processes import compute_as_a_runner

    compute_as_a_runner()
    from hilum.models.benching import run_bench

    run_bench(settings_of(config, assignments), name, study, runs, device, as_json=as_json)


@models.command()
def report(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model; also one that left the configuration.")],
    weeks: Annotated[int, typer.Option(min=1, max=1000, help="How many weeks, this one included.")] = 8,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Tell what a model did week by week: studies, refusals by reason, times, and how its measurements are spread."""
    from hilum.models.watching import run_report

    run_report(settings_of(config, assignments), name, weeks, as_json=as_json)
