"""What a bundle says of itself, read without running any of it and without torch.

MONAI's ``metadata.json`` has no place for what a DICOM node must know of a model: which series it is for, the codes of
its segments, what to measure. That stands in an object of its own in the same file, ``hilum``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from study.codes import ALGORITHM_FAMILIES, ANATOMICAL_STRUCTURE, ARTIFICIAL_INTELLIGENCE, Code
from study.errors import BundleInvalid
from study.imaging import Segment
from study.selection import SelectionRule

MEASURES: Final = ("volume", "mean_attenuation", "laa_950", "percentile_15")
"""What the node can measure of a segment, by the names that a bundle uses."""

_BUILTIN = "builtin:"
_BUILTIN_NAME = re.compile(r"[a-z0-9_]+")
METADATA: Final = "configs/metadata.json"
_LARGEST_LABEL = 65535


@dataclass(frozen=True)
class PlannedFinding:
    """A region that the report speaks of.

    Parameters
    ----------
    key, label, finding, site, segment_values
        As in `study.imaging.Finding`.
    """

    key: str
    label: str
    finding: Code
    site: Code
    segment_values: tuple[int, ...]


@dataclass(frozen=True)
class ModelCard:
    """What the node knows of a model before it runs it.

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
    rule
        Which series the model is for.
    segments, keys
        The structures it labels, and the stable name of each.
    findings
        What the report speaks of: each segment, then regions of several.
    measures
        What is measured of each finding, out of `MEASURES`.
    target
        The organ without which there is nothing to analyse, in words; "" where an empty result is a result.
    algorithm_family
        What kind of algorithm it is (CID 7162).
    kind
        What the model gives.
    """

    name: str
    title: str
    task: str
    version: str
    digest: str
    path: Path
    rule: SelectionRule
    segments: tuple[Segment, ...]
    keys: tuple[str, ...]
    findings: tuple[PlannedFinding, ...]
    measures: tuple[str, ...] = ()
    target: str = ""
    algorithm_family: Code = ARTIFICIAL_INTELLIGENCE
    kind: str = "segmentation"


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


def read_card(name: str, bundle: Path, description: Mapping[str, Any] | None = None) -> ModelCard:
    """Return the card of the bundle in a folder.

    Parameters
    ----------
    name
        What the node calls the model.
    description
        Stands for the metadata's ``hilum`` object where the bundle has none.

    Raises
    ------
    BundleInvalid
        With the file and what is wrong in it.
    """
    file = bundle / METADATA
    metadata = read_json(file)
    own = metadata.get("hilum", description)
    if own is None:
        raise BundleInvalid(
            f'{file} does not say which series the model is for and what its labels mean; add a "hilum" object with '
            '"select", "segments" and "measures" to it.'
        )
    try:
        return _card(name, bundle, metadata, own)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleInvalid(f'{file}: the "hilum" object can not be used: {_words(error)}.') from error


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
    """Return the SHA-256 over the sorted relative paths and contents of a bundle's files, hexadecimal."""
    digest = hashlib.sha256()
    for file in sorted(_files(bundle), key=lambda file: file.relative_to(bundle).as_posix()):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
        relative = file.relative_to(bundle).as_posix().encode()
        digest.update(len(relative).to_bytes(8, "big") + relative + content)
    return digest.hexdigest()


def _find_builtin(name: str) -> Path:
    shipped = Path(__file__).resolve().parent / "bundles"
    path = shipped / name
    if _BUILTIN_NAME.fullmatch(name) and (path / METADATA).is_file():
        return path
    known = ", ".join(sorted(_BUILTIN + file.parents[1].name for file in shipped.glob(f"*/{METADATA}")))
    raise BundleInvalid(f"{_BUILTIN}{name} does not ship with the node; these do: {known}.")


def _files(bundle: Path) -> list[Path]:
    return [file for file in bundle.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


def _card(name: str, bundle: Path, metadata: Mapping[str, Any], own: Mapping[str, Any]) -> ModelCard:
    segments = tuple(_segment(entry) for entry in own["segments"])
    keys = tuple(str(entry["key"]) for entry in own["segments"])
    _demand_distinct("key", keys)
    _demand_distinct("value", [segment.value for segment in segments])
    measures = tuple(str(measure) for measure in own.get("measures", ()))
    unknown = set(measures) - set(MEASURES)
    if unknown:
        raise ValueError(f"measures {', '.join(sorted(unknown))} are not known; these are: {', '.join(MEASURES)}")
    values = dict(zip(keys, (segment.value for segment in segments), strict=True))
    findings = [
        PlannedFinding(key, segment.label, segment.property_type, segment.property_type, (segment.value,))
        for key, segment in zip(keys, segments, strict=True)
    ]
    findings += [_joint_finding(entry, values) for entry in own.get("findings", ())]
    _demand_distinct("key", [finding.key for finding in findings])
    return ModelCard(
        name=name,
        title=str(metadata.get("name") or name),
        task=str(metadata.get("task", "")),
        version=str(metadata["version"]),
        digest=digest_of(bundle),
        path=bundle,
        rule=_rule(own.get("select", {})),
        segments=segments,
        keys=keys,
        findings=tuple(findings),
        measures=measures,
        target=str(own.get("target", "")),
        algorithm_family=_algorithm_family(str(own.get("algorithm_family", ARTIFICIAL_INTELLIGENCE.value))),
    )


def _algorithm_family(value: str) -> Code:
    known = {code.value: code for code in ALGORITHM_FAMILIES}
    if value not in known:
        raise ValueError(f"the algorithm family {value} is not known; these are: {', '.join(known)}")
    return known[value]


def _segment(entry: Mapping[str, Any]) -> Segment:
    value = entry["value"]
    if not isinstance(value, int) or not 1 <= value <= _LARGEST_LABEL:
        raise ValueError(f"a segment's value is a whole number from 1 to {_LARGEST_LABEL}, not {value!r}")
    red, green, blue = (int(part) for part in entry.get("rgb", (230, 159, 0)))
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"the colour of segment {value} is not three numbers from 0 to 255")
    return Segment(
        value=value,
        label=str(entry["label"]),
        category=_code(entry["category"]) if "category" in entry else ANATOMICAL_STRUCTURE,
        property_type=_code(entry["type"]),
        laterality=_code(entry["laterality"]) if "laterality" in entry else None,
        rgb=(red, green, blue),
    )


def _joint_finding(entry: Mapping[str, Any], values: Mapping[str, int]) -> PlannedFinding:
    code = _code(entry["type"])
    return PlannedFinding(
        key=str(entry["key"]),
        label=str(entry["label"]),
        finding=code,
        site=_code(entry["site"]) if "site" in entry else code,
        segment_values=tuple(values[key] for key in entry["segments"]),
    )


def _rule(select: Mapping[str, Any]) -> SelectionRule:
    allowed = set(SelectionRule.__dataclass_fields__)
    unknown = set(select) - allowed
    if unknown:
        raise ValueError(f'"select" has no {", ".join(sorted(unknown))}, only {", ".join(sorted(allowed))}')
    values: dict[str, Any] = {
        key: tuple(str(part) for part in value) if isinstance(value, list) else value for key, value in select.items()
    }
    return SelectionRule(**values)


def _code(parts: object) -> Code:
    if not isinstance(parts, list) or len(parts) != 3 or not all(isinstance(part, str) and part for part in parts):
        raise ValueError(f"{parts!r} is no code: [value, scheme, meaning]")
    return Code(*parts)


def _demand_distinct(what: str, values: Sequence[object]) -> None:
    if not values or len(set(values)) != len(values):
        raise ValueError(f"there must be segments, and each {what} may occur once only")


def _words(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
