"""``hilum models add``: what a bundle is and does, shown to a person, and its entry in the configuration file.

The digest in the entry is the approval: the node runs this bundle as it is now, and no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from db.files.durable import draft_of, publish
from hilum.config import DEFAULT_FILE, load
from hilum.layers import file_text
from hilum.models.entries import block, entries_of, with_entry, with_values
from hilum.models.inspecting import Look, look_at
from hilum.planning import read_cards
from hilum.sections import NAME_PATTERN
from hilum.terminal import say
from hilum.wording import output_words, printable, priors_words, rule_words
from inference.catalog import ModelCard, digest_of, find_bundle, is_builtin, read_card, read_json
from inference.description import ModelDescription, Select
from inference.metadata import CONFIGS, METADATA, Metadata
from study.errors import BundleInvalid, ConfigError

_TEMPLATES: Final = {
    "[[models.segments]]": """\
[[models.segments]]            # one for each value of the label map
value = 1
label = "..."
type = ["...", "SCT", "..."]   # code, scheme, meaning; without it the general code Tissue
""",
    "[[models.classes]]": """\
[[models.classes]]             # one for each place of the output
index = 0
label = "..."
type = ["...", "SCT", "..."]   # code, scheme, meaning; without it a private code
""",
    "[[models.measurements]]": """\
[[models.measurements]]        # one for each place of the output
index = 0
label = "..."
name = ["...", "DCM", "..."]   # code, scheme, meaning
unit = ["...", "UCUM", "..."]
""",
}
"""By the words of a complaint: what a site would write."""
_SELECT: Final = """\
[models.select]
modality = "..."               # which series it is for: CT, MR, PT, DX, MG, ...
"""
_KIND: Final = """\
kind = "segmentation"          # or "classification", "measurement"
"""


def run_add(config: Path | None, location: str, name: str | None, *, replace: bool) -> None:
    """Show a bundle and write its entry into the configuration file.

    Parameters
    ----------
    location
        The bundle's folder.
    name
        Of the model; made from the folder's name by default.
    replace
        Approve the bundle for the model of this name that is there: the rest of its entry stays as it is.

    Raises
    ------
    ConfigError
        If the file can not be read or written, or has such a model already (or, to replace, none). It is unchanged.
    BundleInvalid
        If the bundle can not be run, or not without words that only the site knows; what to add is printed then.
    """
    file = config or DEFAULT_FILE
    text = file_text(file)
    bundle = _folder(location)
    entry = {"name": _name_of(bundle) if name is None else name, "bundle": _as_written(bundle, file)}
    found = _entry_of(file, text, entry["name"], replace=replace)
    metadata = Metadata.of(read_json(bundle / METADATA), bundle / METADATA)
    look = look_at(bundle)
    _say_all(_identity(entry["name"], bundle, metadata, look))
    _say_all(_doings(look))
    entry["digest"] = digest_of(bundle)
    _demand_what_it_runs_by(bundle, look)
    card = _card(entry, bundle, metadata, _description(file, found), file)
    _say_all(_meaning(card))
    say(f"  digest    {card.digest}")
    new = with_values(text, entry["name"], entry) if replace else with_entry(text, entry)
    left = _write(file, new, entry)
    for hint in card.hints:
        say(f"hint: {printable(hint)}")
    say(f"{'replaced' if replace else 'added'} {card.name} in {file}; restart hilum serve to run it")
    if left:
        raise ConfigError("\n".join(left))


def _demand_what_it_runs_by(bundle: Path, look: Look) -> None:
    """Demand a configuration that can be read, and weights where a network of a library needs them; nothing is run."""
    config = next((name for name in CONFIGS if (bundle / name).is_file()), None)
    if config is None:
        raise BundleInvalid(f"{bundle} holds none of {', '.join(CONFIGS)}; a bundle needs one.")
    unread = dict(look.unread)
    if config in unread:
        raise BundleInvalid(f"{bundle / config} can not be read: {unread[config]}.")
    text = (bundle / config).read_text(errors="replace")
    if "network_def" not in text and "network" not in text and not (bundle / "models" / "model.ts").is_file():
        raise BundleInvalid(f"{bundle / config} has no network_def, and there is no models/model.ts.")
    if "CheckpointLoader" in text and not look.weights:
        raise BundleInvalid(
            f"{bundle} has no weights. Bundles of the Model Zoo keep them apart (large_files.yml); download the whole "
            "bundle."
        )


def _folder(location: str) -> Path:
    if is_builtin(location):
        name = location.partition(":")[2]
        raise ConfigError(
            f"{location} ships with the node and needs no digest; add these lines: "
            f'[[models]] name = "{name}" bundle = "{location}"'
        )
    bundle = find_bundle(location)
    if not str(bundle).isprintable():
        raise BundleInvalid(f"{printable(str(bundle))}: the path holds letters that can not be written; rename it.")
    return bundle


def _name_of(bundle: Path) -> str:
    """Return the folder's name as one that a model can have."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", bundle.name).lstrip("_-")[:64] or "model"


def _as_written(bundle: Path, file: Path) -> str:
    """Return a bundle's path as its entry has it: relative where it lies below the file's folder."""
    home = file.resolve().parent
    return bundle.relative_to(home).as_posix() if bundle.is_relative_to(home) else str(bundle)


def _entry_of(file: Path, text: str, name: str, *, replace: bool) -> dict[str, object] | None:
    """Return the entry of this name where it is to be replaced; ConfigError where it is not as the command says."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(
            f"--name {name}: a name has 1 to 64 letters, digits, _ and -, and begins with none of the two"
        )
    try:
        entries = entries_of(text)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.words}") from None
    found = next((entry for entry in entries if entry.get("name") == name), None)
    if found is not None and not replace:
        raise ConfigError(
            f"{file}: models.{name} is there already; --replace approves this bundle for it, --name NAME adds another"
        )
    if found is None and replace:
        names = ", ".join(str(entry.get("name")) for entry in entries) or "none"
        raise ConfigError(f"{file}: there is no models.{name} to replace (there: {names}); leave --replace out")
    return found


def _description(file: Path, entry: dict[str, object] | None) -> ModelDescription:
    """Return what the site says of the model already."""
    said = {key: value for key, value in (entry or {}).items() if key in ModelDescription.model_fields}
    try:
        return ModelDescription.model_validate(said)
    except ValidationError:
        load(file)  # says what is wrong, where, in words
        raise


def _card(
    entry: dict[str, str], bundle: Path, metadata: Metadata, description: ModelDescription, file: Path
) -> ModelCard:
    try:
        return read_card(entry["name"], bundle, description, entry["digest"])
    except BundleInvalid as error:
        needed = _needed(bundle, metadata, description, error)
        if not needed:
            raise
        say(f"\n{block(entry).rstrip()}\n{needed}")
        raise BundleInvalid(f"{error.words} Complete the lines above and add them to {file}.") from None


def _needed(bundle: Path, metadata: Metadata, description: ModelDescription, error: BundleInvalid) -> str:
    """Return the lines, to be completed, without which the model has no card; "" where no words of a site mend it."""
    words, select = error.words, ""
    if not metadata.modality() and not description.select.modality:
        select = _SELECT
        try:  # what else is missing shows once this is there
            read_card("model", bundle, ModelDescription(select=Select(modality=("CT",))).over(description))
        except BundleInvalid as further:
            words = further.words
        else:
            words = ""
    kind = _KIND if "kind =" in words else ""
    tables = [template for table, template in _TEMPLATES.items() if table in words]
    if words and not kind and not tables:
        return ""
    return kind + select + "".join(tables)


def _write(file: Path, text: str, entry: dict[str, str]) -> list[str]:
    """Put the new text in the file's place if the configuration is none the worse; return what was wrong before."""
    target = file.resolve()
    try:
        with draft_of(target, text.encode()) as draft:
            mistakes = [line.replace(str(draft), str(file)) for line in _mistakes(draft)]
            known = _mistakes(file) if mistakes else []
            worse = [line for line in mistakes if line not in known]
            if worse:
                raise ConfigError("\n".join(["nothing was written, since this would be wrong:", *worse]))
            publish(draft, target)
    except OSError as error:
        say(f"\n{block(entry)}")
        raise ConfigError(
            f"{file} can not be written: {error.strerror}; add the lines above to it, or run this as its owner"
        ) from None
    return mistakes


def _mistakes(file: Path) -> list[str]:
    try:
        read_cards(load(file))
    except ConfigError as error:
        return error.words.splitlines()
    return []


def _say_all(lines: Iterator[str]) -> None:
    for line in lines:
        say(printable(line))


def _identity(name: str, bundle: Path, metadata: Metadata, look: Look) -> Iterator[str]:
    yield f"{name}: {metadata.name or 'without a title'}"
    yield f"  folder    {bundle}: {look.files} files, {_bytes(look.size)}"
    yield f"  task      {metadata.task or 'not said'}"
    yield f"  version   {metadata.version}"
    files = "; ".join(f'{file}: "{line}"' for file, line in look.licences) or "no licence file"
    yield f"  licence   {metadata.license or 'not said'} ({files})"
    for key, form in metadata.inputs.items():
        channels = form.get("num_channels", 1)
        yield f"  input     {key}: {form.get('modality') or 'modality not said'}, {channels} channel(s)"


def _meaning(card: ModelCard) -> Iterator[str]:
    yield f"  kind      {card.kind}"
    for place, words in enumerate(rule_words(card.rule)):
        yield f"  {'' if place else 'takes':<9} {words}"
    for place, words in enumerate(priors_words(card)):
        yield f"  {'' if place else 'compares':<9} {words}"
    for place, words in enumerate(output_words(card)):
        yield f"  {'' if place else 'gives':<9} {words}"


def _doings(look: Look) -> Iterator[str]:
    yield '  calls     "!" marks what to look at twice; this helps to read a bundle and proves nothing'
    for saying in look.sayings:
        yield f"{_mark(saying.marks)} {saying.file}  {saying.place} = {saying.text}{_because(saying.marks)}"
    for script in look.scripts:
        imports = ", ".join(script.imports) or "nothing"
        yield f"{_mark(script.marks)} {script.file}  imports {imports}{_because(script.marks)}"
    for file in look.compiled:
        yield f"! {file}  compiled code, which can not be read"
    for file, words in look.unread:
        yield f"! {file}  could not be looked at: {words}"
    for file, size in look.weights:
        yield f"  {file}  {_bytes(size)}"


def _mark(marks: tuple[str, ...]) -> str:
    return "!" if marks else " "


def _because(marks: tuple[str, ...]) -> str:
    return f"  <- {', '.join(marks)}" if marks else ""


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
