"""What an attribute came to is remembered by how it is written, and by nothing less."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from study import elements


def as_read(dataset: Dataset, *, implicit: bool = False, little: bool = True) -> Dataset:
    """Return the data set as a parser gives it, its values not converted yet."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, little
    write_dataset(buffer, dataset)
    return read_dataset(BytesIO(buffer.getvalue()), implicit, little)


def written(keyword: str, value: object, character_set: str = "ISO_IR 100") -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = character_set
    setattr(dataset, keyword, value)
    return dataset


CASES: list[tuple[str, object, Callable[[Dataset, str], Any]]] = [
    ("PatientName", "Grünwald^Ada", elements.text),
    ("ImageType", ["ORIGINAL", "PRIMARY"], elements.texts),
    ("Rows", 512, elements.integer),
    ("InstanceNumber", "17", elements.integer),
    ("PixelSpacing", [0.7, 0.8], elements.numbers),
    ("SliceThickness", "1.25", elements.number),
    ("FrameOfReferenceUID", "1.2.3", elements.uid),
    ("DiffusionBValue", 800.0, elements.number),
]


@pytest.mark.parametrize(("keyword", "value", "reader"), CASES)
@pytest.mark.parametrize("order", [(False, True), (True, True), (False, False)])
def test_it_is_what_the_reader_gives_at_first_and_again(
    keyword: str, value: object, reader: Callable[[Dataset, str], Any], order: tuple[bool, bool]
) -> None:
    known, calls = elements.Known(), []

    def counting(dataset: Dataset, keyword: str) -> Any:  # noqa: ANN401
        calls.append(keyword)
        return reader(dataset, keyword)

    def parsed() -> Dataset:
        return as_read(written(keyword, value), implicit=order[0], little=order[1])

    expected = reader(parsed(), keyword)
    assert expected not in (None, "", ())
    assert [known.read(parsed(), keyword, counting) for _ in range(3)] == [expected] * 3
    assert calls == [keyword]


def test_another_character_set_value_or_reader_is_another_value() -> None:
    known = elements.Known()
    latin, cyrillic = (
        as_read(written("PatientName", name, character_set))
        for name, character_set in (("Grünwald", "ISO_IR 100"), ("Gr\u044cnwald", "ISO_IR 144"))
    )
    assert known.read(latin, "PatientName", elements.text) == "Grünwald"
    assert known.read(cyrillic, "PatientName", elements.text) == elements.text(cyrillic, "PatientName") != "Grünwald"
    rows = as_read(written("Rows", 3))
    assert known.read(rows, "Rows", elements.integer) == 3
    assert known.read(rows, "Rows", elements.numbers) == (3.0,)
    assert known.read(as_read(written("Rows", 4)), "Rows", elements.integer) == 4


def test_bytes_in_the_other_order_are_another_value() -> None:
    known = elements.Known()
    little, big = as_read(written("Rows", 0x0102)), as_read(written("Rows", 0x0201), little=False)
    assert known.read(little, "Rows", elements.integer) == 0x0102
    assert known.read(big, "Rows", elements.integer) == 0x0201


def test_what_is_absent_or_was_converted_already_is_read_as_it_is() -> None:
    known, dataset = elements.Known(), Dataset()
    assert known.read(dataset, "Rows", elements.integer) is None
    dataset.Rows = 5
    assert known.read(dataset, "Rows", elements.integer) == 5
    dataset.Rows = 6
    assert known.read(dataset, "Rows", elements.integer) == 6


def test_so_many_are_remembered_at_most() -> None:
    known = elements.Known(most=10)
    for rows in range(35):
        assert known.read(as_read(written("Rows", rows)), "Rows", elements.integer) == rows
    assert len(known._found) <= 10
