"""What the node knows of a model before it runs it, read without running any of its bundle and without torch.

MONAI's ``metadata.json`` has no place for what a DICOM node must know: which series a model is for, the codes of its
segments, what to measure. That is taken, in this order, from the site's configuration, from the object ``hilum`` of the
metadata, from the built-in tables (`inference.structures`), and from the label names of the metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from inference.description import Kind, ModelDescription, Priors, family_of
from inference.metadata import METADATA, Metadata
from inference.naming import PlannedClass, PlannedFinding, PlannedNumber, Vocabulary
from inference.structures import table_digest
from study.codes import ARTIFICIAL_INTELLIGENCE, Code
from study.errors import BundleInvalid, Reason
from study.imaging import Segment
from study.selection import SelectionRule

_BUILTIN: Final = "builtin:"
_BUILTIN_NAME = re.compile(r"[a-z0-9_]+")
_HOUNSFIELD_MEASURES: Final = frozenset({"mean_attenuation", "laa_950", "percentile_15"})


@dataclass(frozen=True)
class ModelCard:
    """What the node knows of a model.

    Parameters
    ----------
    name
        In the configuration.
    title, task, version
        As the bundle's metadata have them.
    digest
        SHA-256 over the bundle's files, hexadecimal.
    path
        The bundle's folder.
    kind
        What the model gives.
    rule
        Which series the model is for.
    segments, keys
        The structures it labels, and the stable name of each.
    background_first
        Whether the names by which the segments are numbered begin with a background; None where the site numbers them.
    findings
        What the report speaks of: each segment, then regions of several.
    measures
        What is measured of each finding, by the names of `inference.description.Measure`.
    classes, numbers
        What each place of the output of a classification, or of a measurement, means.
    activation, exclusive
        What turns the output of a classification into probabilities where the bundle does not; whether exactly one
        class holds (None: as the bundle's own activation says).
    priors
        Which earlier studies of the patient it gets besides; None: none.
    target
        The organ without which there is nothing to analyse, in words; "" where an empty result is a result.
    algorithm_family
        What kind of algorithm it is (CID 7162).
    description_digest
        SHA-256 of all that was said of the model: another description makes other results.
    hints
        What a person could say better of the model, in words with the remedy.
    objection
        Why it may not run at all, as a changed bundle; None where it may.
    """

    name: str
    title: str
    task: str
    version: str
    digest: str
    path: Path
    kind: Kind
    rule: SelectionRule
    segments: tuple[Segment, ...] = ()
    keys: tuple[str, ...] = ()
    background_first: bool | None = None
    findings: tuple[PlannedFinding, ...] = ()
    measures: tuple[str, ...] = ()
    classes: tuple[PlannedClass, ...] = ()
    numbers: tuple[PlannedNumber, ...] = ()
    activation: str = "none"
    exclusive: bool | None = None
    priors: Priors | None = None
    target: str = ""
    algorithm_family: Code = ARTIFICIAL_INTELLIGENCE
    description_digest: str = ""
    hints: tuple[str, ...] = ()
    objection: Reason | None = None


def is_builtin(location: str | Path) -> bool:
    """Tell whether a location names a bundle that ships with the node."""
    return str(location).startswith(_BUILTIN)


def find_bundle(location: str | Path, relative_to: Path | None = None) -> Path:
    """Return the folder of a bundle.

    Parameters
    ----------
    location
        ``builtin:NAME`` for one that ships with the node, else a path.
    relative_to
        The folder from which a relative path counts; the current one by default.

    Raises
    ------
    BundleInvalid
        If there is no such bundle.
    """
    text = str(location)
    if text.startswith(_BUILTIN):
        return _find_builtin(text.removeprefix(_BUILTIN))
    path = ((relative_to or Path()) / text).resolve()
    if not path.is_dir():
        raise BundleInvalid(f"{path} is no folder; a bundle is a folder with {METADATA}.")
    return path


def read_card(name: str, bundle: Path, entry: ModelDescription | None = None, digest: str | None = None) -> ModelCard:
    """Return the card of the bundle in a folder.

    Parameters
    ----------
    name
        What the node calls the model.
    entry
        What the site says of it; wins over what the bundle says.
    digest
        The digest that the site has approved; None for a bundle that ships with the node. A bundle of another digest
        has a card with an `objection`: it is known what it would be for, and it never runs.

    Raises
    ------
    BundleInvalid
        With the file or key and what is wrong in it.
    """
    file = bundle / METADATA
    metadata = Metadata.of(read_json(file), file)
    description = (entry or ModelDescription()).over(_own_description(metadata, file))
    found = digest_of(bundle)
    try:
        return _card(name, bundle, metadata, description, found, _objection(name, bundle, digest, found))
    except ValueError as error:
        raise BundleInvalid(f"{file}: {error}.") from error


def _own_description(metadata: Metadata, file: Path) -> ModelDescription:
    """Return what the bundle itself says beyond MONAI's metadata."""
    try:
        return ModelDescription.model_validate(metadata.hilum)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        words = str(first["msg"]).removeprefix("Value error, ")
        raise BundleInvalid(f'{file}: the "hilum" object can not be used: {where}: {words}.') from error


def _objection(name: str, bundle: Path, approved: str | None, found: str) -> Reason | None:
    if approved is None or approved == found:
        return None
    words = (
        f"The bundle of {name} is not the one that was added: its digest was {approved}, it is {found}. "
        f"If the change is wanted, look at it and add it again: hilum models add {bundle} --name {name} --replace."
    )
    return Reason("BundleChanged", words, {"approved": approved, "found": found})


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a bundle's file.

    Raises
    ------
    BundleInvalid
        If there is no such file, or it holds no JSON object.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise BundleInvalid(f"{file} does not exist; a bundle needs it.") from error
    except (OSError, ValueError) as error:
        raise BundleInvalid(f"{file} can not be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise BundleInvalid(f"{file} is no JSON object.")
    return content


def digest_of(bundle: Path) -> str:
    """Return the SHA-256 over the sorted relative paths and contents of a bundle's files, hexadecimal.

    A link to a folder counts by where it leads: what lies behind it would run, too.
    """
    digest = hashlib.sha256()
    for file in sorted(_files(bundle), key=lambda file: file.relative_to(bundle).as_posix()):
        if file.is_dir():
            content = hashlib.sha256(b"link to " + os.fsencode(file.readlink())).digest()
        else:
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
        relative = os.fsencode(file.relative_to(bundle).as_posix())
        digest.update(len(relative).to_bytes(8, "big") + relative + content)
    return digest.hexdigest()


def _card(
    name: str, bundle: Path, metadata: Metadata, description: ModelDescription, digest: str, objection: Reason | None
) -> ModelCard:
    further = description.priors.inputs if description.priors else ()
    metadata.demand_one_image_in_and_one_result_out(further)
    kind = description.kind or metadata.kind()
    rule = description.select.rule(metadata.modality())
    metadata.demand_channels(rule.form, len(further))
    _demand_comparable(description.priors, kind, rule)
    vocabulary = Vocabulary(metadata, description, bundle.name)
    segments, keys = vocabulary.segments() if kind == "segmentation" else ((), ())
    if kind == "segmentation" and rule.form == "image":
        raise ValueError("a segmentation of single images can not be run; models of kind classification can")
    return ModelCard(
        name=name,
        title=description.title or metadata.name or name,
        task=metadata.task,
        version=metadata.version,
        digest=digest,
        path=bundle,
        kind=kind,
        rule=rule,
        segments=segments,
        keys=keys,
        background_first=vocabulary.background_first,
        findings=vocabulary.findings(segments, keys) if segments else (),
        measures=_measures(description, rule),
        classes=vocabulary.classes() if kind == "classification" else (),
        numbers=vocabulary.numbers() if kind == "measurement" else (),
        activation=description.activation,
        exclusive=description.exclusive,
        priors=description.priors,
        target=description.target,
        algorithm_family=family_of(description),
        description_digest=_digest_of_description(description),
        hints=(*vocabulary.hints, *_hints_on(rule, name)),
        objection=objection,
    )


def _demand_comparable(priors: Priors | None, kind: Kind, rule: SelectionRule) -> None:
    """Return if a model can do with earlier studies what its description says; ValueError if not."""
    if priors is None:
        return
    if rule.form == "image":
        raise ValueError("priors: single images are not compared; models of volumes are")
    if priors.input:
        return
    if kind == "classification":
        raise ValueError('priors: classes are not compared; say input = "prior" for a bundle that compares by itself')
    foreign = {each.upper() for each in priors.modality} - {each.upper() for each in rule.modality}
    if foreign:
        raise ValueError(
            f"priors: the same bundle analyses them, and it is not for {', '.join(sorted(foreign))}; another modality "
            'needs input = "prior", and a bundle that takes it'
        )


def _hints_on(rule: SelectionRule, name: str) -> tuple[str, ...]:
    """Return what a rule asks too little of: a model of the lung is not for heads."""
    asked = (rule.body_part, rule.description_include, rule.description_exclude, rule.slices, rule.orientation)
    if any(asked) or rule.form == "image":
        return ()
    return (
        f"{name} takes every {' or '.join(rule.modality)} volume, of whatever part of the body; say body_part, "
        "description_include or slices in [models.select]",
    )


def _measures(description: ModelDescription, rule: SelectionRule) -> tuple[str, ...]:
    of_ct = set(rule.modality) == {"CT"}
    if description.measures is None:
        return ("volume", "mean_attenuation") if of_ct else ("volume",)
    foreign = set(description.measures) & _HOUNSFIELD_MEASURES
    if foreign and not of_ct:
        raise ValueError(f"{', '.join(sorted(foreign))} are in Hounsfield units, which only CT has")
    return tuple(description.measures)


def _digest_of_description(description: ModelDescription) -> str:
    # What is not said is left out, so that jobs keep the keys that they had before it could be
    unsaid = {"priors"} if description.priors is None else set()
    return hashlib.sha256((table_digest() + description.model_dump_json(exclude=unsaid)).encode()).hexdigest()


def _find_builtin(name: str) -> Path:
    shipped = Path(__file__).resolve().parent / "bundles"
    path = shipped / name
    if _BUILTIN_NAME.fullmatch(name) and (path / METADATA).is_file():
        return path
    known = ", ".join(sorted(_BUILTIN + file.parents[1].name for file in shipped.glob(f"*/{METADATA}")))
    raise BundleInvalid(f"{_BUILTIN}{name} does not ship with the node; these do: {known}.")


def _files(bundle: Path) -> list[Path]:
    """Return the files of a bundle, and its links to folders, which are not gone into."""
    return [
        file
        for file in bundle.rglob("*")
        if (file.is_file() or (file.is_symlink() and file.is_dir())) and "__pycache__" not in file.parts
    ]
