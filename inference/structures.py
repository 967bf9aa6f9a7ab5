"""Codes, colours and sides of the structures that the Model Zoo's bundles label, looked up by the names they use.

The table is ``structures.json`` beside this module. Its codes are those of DICOM's context groups where these have one,
else the SNOMED CT concept of the structure (not of the "entire" structure). A side is said once: by the type where its
concept has a side, else by a modifier.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from study.codes import ANATOMICAL_STRUCTURE, Code

_FILE: Final = Path(__file__).with_name("structures.json")
_WORD = re.compile(r"[^\W_]+")
_REMARK = re.compile(r"[(\[{]([^)\]}]*)[)\]}]")
_VERSION = re.compile(r"[ _-]v?\d+(\.\d+)+$")
_SIDES: Final = frozenset({"left", "right"})


@dataclass(frozen=True)
class Structure:
    """What a label name stands for.

    Parameters
    ----------
    label
        The name as a radiologist reads it; finds the same structure again.
    category, property_type
        Segmented Property Category and Type.
    laterality
        Modifier of the type; None where the type itself says the side, or there is none.
    region
        Anatomic Region that it lies in, as for a tumour; None where the type says it.
    rgb
        Recommended display colour, 0 to 255 each.
    """

    label: str
    category: Code
    property_type: Code
    laterality: Code | None
    region: Code | None
    rgb: tuple[int, int, int]


def find_structure(name: str) -> Structure | None:
    """Return the structure of a label name, None where the table has none.

    Case, punctuation, the place of the side, and remarks in brackets make no difference: "Left kidney", "kidney_left"
    and "KIDNEY L. (native)" are the same.
    """
    return find_in("", name)


def find_in(bundle_name: str, name: str) -> Structure | None:
    """Return the structure of a label name of a bundle, in which it can mean something else than elsewhere.

    Parameters
    ----------
    bundle_name
        Of the Model Zoo, by its folder or by the name in its metadata; of any other bundle, it makes no difference.
    name
        Of the label, as for `find_structure`.
    """
    table = _table()
    own = table.own_names.get(_bundle_key(bundle_name), {})
    found = (table.structures.get(own.get(form, form)) for form in _forms(name))
    return next((structure for structure in found if structure is not None), None)


def segments_of(bundle_name: str) -> tuple[tuple[int, str], ...] | None:
    """Return the value and the name of each label of a bundle whose metadata do not reliably say them, else None."""
    return _table().segments.get(_bundle_key(bundle_name))


def is_background(name: str) -> bool:
    """Tell whether a label name stands for what is no structure."""
    return not _table().background.isdisjoint(_forms(name))


@functools.cache
def table_digest() -> str:
    """Return the SHA-256 of the table, hexadecimal: another table makes other results."""
    return hashlib.sha256(_FILE.read_bytes()).hexdigest()


@dataclass(frozen=True)
class _Table:
    """The table by normalised names.

    Parameters
    ----------
    structures
        By each of its names.
    own_names
        What names mean in one bundle: by bundle, then by name, a name in `structures`.
    segments
        Values and names of a bundle's labels, by bundle.
    """

    structures: Mapping[str, Structure]
    own_names: Mapping[str, Mapping[str, str]]
    segments: Mapping[str, tuple[tuple[int, str], ...]]
    background: frozenset[str]


@functools.cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_FILE.read_bytes())
    return content


@functools.cache
def _table() -> _Table:
    content = _content()
    structures: dict[str, Structure] = {}
    for key, entry in content["structures"].items():
        structure = _structure(key, entry)
        structures.update(dict.fromkeys(map(_normalised, (key, *entry.get("names", ()))), structure))
    own_names: dict[str, Mapping[str, str]] = {}
    segments: dict[str, tuple[tuple[int, str], ...]] = {}
    for bundle, entry in content["bundles"].items():
        for key in map(_bundle_key, (bundle, *entry.get("also", ()))):
            own_names[key] = _own_names(entry.get("names", {}), structures)
            if "segments" in entry:
                segments[key] = tuple(enumerate(entry["segments"], start=1))
    return _Table(structures, own_names, segments, frozenset(map(_normalised, content["background"])))


def _own_names(meanings: Mapping[str, str], structures: Mapping[str, Structure]) -> dict[str, str]:
    """Return a bundle's meanings, also by the other names of what they replace: a neoplasm is what a tumour is."""
    own = {
        other: meant
        for name, meant in meanings.items()
        if name in structures
        for other, structure in structures.items()
        if structure is structures[name]
    }
    return {**own, **meanings}


def _structure(key: str, entry: Mapping[str, Any]) -> Structure:
    red, green, blue = entry["colour"]
    return Structure(
        label=entry.get("label", key[:1].upper() + key[1:]),
        category=_code(entry.get("category")) or ANATOMICAL_STRUCTURE,
        property_type=Code(*entry["type"]),
        laterality=_code(entry.get("laterality")),
        region=_code(entry.get("region")),
        rgb=(red, green, blue),
    )


def _code(parts: Sequence[str] | None) -> Code | None:
    return Code(*parts) if parts else None


def _forms(name: str) -> Iterator[str]:
    """Return the normalised forms under which a name is looked up, the fullest first."""
    yield _normalised(name)
    remarks = _REMARK.findall(name)
    if remarks:
        # A side is no mere remark: without it, the two kidneys of "kidney (left, native)" would be the same.
        sides = [word for remark in remarks for word in _words(remark) if word in _SIDES]
        yield _joined([*sides, *_words(_REMARK.sub(" ", name))])


def _normalised(name: str) -> str:
    return _joined(_words(name))


def _words(text: str) -> list[str]:
    spellings: Mapping[str, str] = _content()["spellings"]
    return [spellings.get(word, word) for word in _WORD.findall(text.replace("&", " and ").lower())]


def _joined(words: Iterable[str]) -> str:
    """Return the words as one name, with its side in front where it has exactly one."""
    given = list(words)
    sides = _SIDES.intersection(given)
    if len(sides) == 1:
        given = [*sides, *(word for word in given if word not in sides)]
    return " ".join(given)


def _bundle_key(name: str) -> str:
    """Return a bundle's name without what folders and metadata write differently: case, spaces, version."""
    return "".join(_WORD.findall(_VERSION.sub("", name.strip()).lower()))
