"""Values of a data set, read leniently: what is absent, empty or malformed is no value, and never an error.

pydicom converts a value only when it is asked for, and only then finds that it is none. Nothing is guessed here, and no
warning is given, since pydicom's quote values, which may be a patient's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.valuerep import STANDARD_VR, VR, PersonName

from study.uids import is_storable_uid

_LONGEST_KNOWN = 512  # bytes
_INTEGERS = range(-(2**31), 2**31)  # of an IS (PS3.5 6.2), and what every database holds

_MALFORMED = (
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
    AttributeError,
    LookupError,
    EOFError,
    OSError,
    RecursionError,
    struct.error,
    BytesLengthException,
)
"""What pydicom raises over a value that is none: ValueError of DS and IS, OverflowError of IS, BytesLengthException of
US, and whatever a converter gives for a VR that is not the attribute's own, a sequence that ends early or never among
them."""


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence."""
    value = _raw(dataset, keyword)
    return list(value) if isinstance(value, Sequence) else []


def text(dataset: Dataset, keyword: str) -> str:
    """Return a text; a backslash splits a value even where the attribute has one only: the whole is what was sent."""
    return "\\".join(_parts(dataset, keyword))


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the texts of a multi-valued attribute."""
    parts = _parts(dataset, keyword)
    return parts if any(parts) else ()


def uid(dataset: Dataset, keyword: str) -> str:
    """Return a UID; "" where it is none."""
    found = text(dataset, keyword)
    return found if is_storable_uid(found) else ""


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Return a whole number of 32 bits."""
    return _as_integer(_raw(dataset, keyword))


def first_integer(dataset: Dataset, keyword: str) -> int | None:
    """Return the first of an attribute's whole numbers."""
    return next((_as_integer(part) for part in _values(dataset, keyword)), None)


def integers(dataset: Dataset, keyword: str) -> tuple[int, ...]:
    """Return whole numbers; none where one of them is none."""
    parts = [_as_integer(part) for part in _values(dataset, keyword)]
    return tuple(part for part in parts if part is not None) if None not in parts else ()


def number(dataset: Dataset, keyword: str) -> float | None:
    """Return a finite number, of an attribute that has one only."""
    found = numbers(dataset, keyword)
    return found[0] if found is not None and len(found) == 1 else None


def first_number(dataset: Dataset, keyword: str) -> float | None:
    """Return the first of an attribute's numbers."""
    found = numbers(dataset, keyword)
    return found[0] if found else None


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...] | None:
    """Return finite numbers; None where one of them is none."""
    value = _raw(dataset, keyword)
    if value is None or value == "":
        return None
    try:
        found = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        return None
    return tuple(found.tolist()) if found.ndim == 1 and np.isfinite(found).all() else None


class Known:
    """What values of attributes came to: most of a series' images have the same in nearly all of them.

    Parameters
    ----------
    most
        As many values are remembered; beyond, all are forgotten.
    """

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._found: dict[tuple[Any, ...], Any] = {}

    def read(self, dataset: Dataset, keyword: str, reader: Callable[[Dataset, str], Any]) -> Any:  # noqa: ANN401
        """Return what `reader` makes of an attribute, which depends on nothing but how the attribute is written."""
        written = _written(dataset, keyword)
        if written is None:
            return reader(dataset, keyword)
        key = (reader, written)
        try:
            return self._found[key]
        except KeyError:
            value = reader(dataset, keyword)
        if len(self._found) >= self._most:
            self._found.clear()
        self._found[key] = value
        return value


def _written(dataset: Dataset, keyword: str) -> tuple[Any, ...] | None:
    """Return all that tells what an attribute is; None where that is not known, or too long to be remembered."""
    tag = _plain_tag(keyword)
    if tag is None:
        return None
    if tag not in dataset:
        return (tag,)
    element: object = dataset.get_item(tag)
    if not isinstance(element, RawDataElement) or element.value is None or len(element.value) > _LONGEST_KNOWN:
        return None
    if element.VR in {"SQ", "UN"}:
        return None
    order = element.is_implicit_VR, element.is_little_endian
    return tag, element.VR, element.value, order, str(dataset.original_character_set)


@cache
def _plain_tag(keyword: str) -> BaseTag | None:
    """Return an attribute's tag; None where its VR depends on other attributes, or it is a sequence."""
    tag = tag_for_keyword(keyword)
    if tag is None or dictionary_VR(tag) not in STANDARD_VR - {VR.SQ}:
        return None
    return BaseTag(tag)


def _raw(dataset: Dataset, keyword: str) -> Any:  # noqa: ANN401 - pydicom's values have no common type
    try:
        return dataset.get(keyword)
    except _MALFORMED:
        return None


def _values(dataset: Dataset, keyword: str) -> Iterable[Any]:
    # pydicom has a list for several binary numbers, and a MultiValue for several of anything else.
    value = _raw(dataset, keyword)
    return value if isinstance(value, MultiValue | list) else (value,)


def _parts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of a text attribute; bytes and sequences, which only a wrong VR gives, are no text."""
    parts = _values(dataset, keyword)
    return tuple(_cleaned(str(part)) for part in parts if isinstance(part, str | int | float | PersonName))


def _cleaned(given: str) -> str:
    # NUL pads by mistake, and no database takes it; a lone surrogate is no character and can not be encoded.
    return given.replace("\0", "").encode(errors="replace").decode().strip(" ")


def _as_integer(value: Any) -> int | None:  # noqa: ANN401
    try:
        found = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found in _INTEGERS and (isinstance(value, str) or found == value) else None
