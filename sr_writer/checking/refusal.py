"""What a report that a series was not analysed, read back from its file, must keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from sr_writer import codes
from sr_writer.checking.rules import common_reasons, demand_none, read_back
from sr_writer.checking.sr import document_reasons, evidence_reasons
from sr_writer.reading.content_tree import children, descendants, is_named, text_of
from sr_writer.reading.report import keys_of_image
from sr_writer.source.images import by_key
from study.errors import Reason

MOST_IMAGES = 3
"""A refusal refers to so many images at most: they only say which series it is about."""

_TITLES = (codes.NOT_ANALYSED, codes.ANALYSIS_FAILED)
_FINDINGS = (codes.FINDING, codes.FINDING_SITE, codes.DETECTION, codes.MEASURED, codes.MEASUREMENT_GROUP)


def check_refusal(path: Path, sources: Sequence[Dataset]) -> Dataset:
    """Return the refusal report in a file, which keeps every rule.

    Parameters
    ----------
    sources
        Headers of the source images.

    Raises
    ------
    NonconformantObject
        If a rule is broken; the words tell all that are.
    """
    document = read_back(path)
    demand_none(refusal_reasons(document, sources))
    return document


def refusal_reasons(document: Dataset, sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Yield everything that is wrong with a refusal report."""
    yield from document_reasons(document, (BasicTextSRStorage,))
    yield from common_reasons(document, sources)
    yield from evidence_reasons(document)
    yield from _words(document)
    yield from _images(document, sources)


def _words(document: Dataset) -> Iterator[Reason]:
    """Demand that it says in words, and first, that nothing was analysed, why, and what to do; and nothing else."""
    title = next((title for title in _TITLES if is_named(document, title)), None)
    if title is None:
        yield Reason("Tree", "The title does not say that a series was not analysed.")
    elif title.meaning not in str(document.get("SeriesDescription", "")):
        yield Reason("Words", "The Series Description does not say that the series was not analysed.")
    first = next(children(document), Dataset())
    if not is_named(first, codes.SUMMARY) or (title and not str(first.get("TextValue", "")).startswith(title.meaning)):
        yield Reason("Words", "The report does not begin with what it is.")
    for name in (codes.REASON, codes.WHAT_TO_DO):
        if not text_of(document, name).strip():
            yield Reason("Words", f'It has no words under "{name.meaning}".')
    if any(
        item.get("ValueType") == "NUM" or any(is_named(item, name) for name in _FINDINGS)
        for item in descendants(document)
    ):
        yield Reason("Tree", "It has what reads as a finding.")


def _images(document: Dataset, sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Demand that it refers to a few images of the series, below the words about the series alone."""
    series = next(children(document, codes.SOURCE, "TEXT"), Dataset())
    below = [key for item in children(series, value_type="IMAGE") for key in keys_of_image(item)]
    referred = [key for item in descendants(document) for key in keys_of_image(item)]
    if not 1 <= len(below) <= MOST_IMAGES or below != referred:
        yield Reason("Reference", "It does not refer to a few images, below the words about the series.")
    if set(referred) - set(by_key(sources)):
        yield Reason("Reference", "It refers to images that are no source images, or no frames of one.")
