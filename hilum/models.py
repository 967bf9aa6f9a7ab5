"""``hilum models``: list them, add one, try them on a study. The work is in `hilum.adding` and `hilum.trying`."""
# ruff: noqa: PLC0415 - as in hilum.cli: only what a command needs is imported, inside it

from __future__ import annotations

from typing import Annotated

import typer

from hilum.options import ConfigOption, JsonOption, SetOption, settings_of
from hilum.terminal import show_table
from study.errors import ConfigError

models = typer.Typer(no_args_is_help=False, invoke_without_command=True, help="List the models, add one, test one.")


@models.callback()
def list_models(context: typer.Context, config: ConfigOption = None, assignments: SetOption = None) -> None:
    """List the models that the node runs; or add one, or ask what they make of a study."""
    if context.invoked_subcommand is not None:
        if config or assignments:
            raise ConfigError(f"write --config and --set behind hilum models {context.invoked_subcommand}")
        return
    from hilum.planning import read_cards
    from hilum.wording import output_names

    cards = read_cards(settings_of(config, assignments))
    show_table(
        "Models",
        ("Name", "Kind", "Version", "Modality", "Gives", "Digest (SHA-256)", "May run"),
        [
            (
                card.name,
                card.kind,
                card.version,
                ", ".join(card.rule.modality),
                ", ".join(output_names(card)),
                card.digest,
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
    from hilum.adding import run_add

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
    from hilum.trying import run_test

    raise typer.Exit(run_test(settings_of(config, assignments), study, as_json=as_json))
