"""Find things in the content tree of a report that was read from a file (PS3.3 C.17.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset

from study.codes import Code


def items_named(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """Return the items of a sequence; none where it is absent or empty."""
    found: Sequence[Dataset] | None = dataset.get(keyword)
    return found or ()


def code_of(item: Dataset, keyword: str = "ConceptNameCodeSequence") -> Code | None:
    """Return the first code of a Code Sequence of `item`; None where there is none."""
    found = items_named(item, keyword)
    if not found:
        return None
    first = found[0]
    return Code(
        str(first.get("CodeValue", "")), str(first.get("CodingSchemeDesignator", "")), str(first.get("CodeMeaning", ""))
    )


def is_named(item: Dataset, name: Code) -> bool:
    """Tell whether the concept name of `item` is `name`, whatever its meaning says."""
    code = code_of(item)
    return code is not None and (code.value, code.scheme) == (name.value, name.scheme)


def children(item: Dataset, name: Code | None = None, value_type: str | None = None) -> Iterator[Dataset]:
    """Yield the direct children of `item` of this name and Value Type."""
    for child in items_named(item, "ContentSequence"):
        if name is not None and not is_named(child, name):
            continue
        if value_type is None or child.get("ValueType") == value_type:
            yield child


def descendants(item: Dataset) -> Iterator[Dataset]:
    """Yield every content item below `item`, in document order."""
    for child in children(item):
        yield child
        yield from descendants(child)


def text_of(item: Dataset, name: Code) -> str:
    """Return the text or UID of the first child of this name; "" where there is none."""
    for child in children(item, name):
        value = child.get("TextValue") or child.get("UID") or ""
        return str(value)
    return ""


def model_of(dataset: Dataset) -> tuple[str, str]:
    """Return name and version of the model that made a result."""
    versions = dataset.get("SoftwareVersions") or ""
    return str(dataset.get("ManufacturerModelName", "")), versions if isinstance(versions, str) else str(versions[0])
