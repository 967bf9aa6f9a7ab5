"""What an Encapsulated PDF, read back from its file, must keep: a whole PDF that the source images are named in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from sr_writer.checking.rules import common_reasons, demand_none, form_reasons, read_back
from sr_writer.reading.content_tree import code_of, items_named
from study.errors import Reason

_EXPECTED = {
    "SOPClassUID": EncapsulatedPDFStorage,
    "Modality": "DOC",
    "ConversionType": "WSD",
    "BurnedInAnnotation": "YES",
    "MIMETypeOfEncapsulatedDocument": "application/pdf",
    "InstanceNumber": 1,
    "VerificationFlag": "UNVERIFIED",
}


def check_pdf(path: Path, sources: Sequence[Dataset]) -> Dataset:
    """Return the Encapsulated PDF in a file, which keeps every rule.

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
    demand_none(pdf_reasons(document, sources))
    return document


def pdf_reasons(document: Dataset, sources: Sequence[Dataset]) -> Iterator[Reason]:
    """Yield everything that is wrong with an Encapsulated PDF."""
    yield from _form(document)
    yield from common_reasons(document, sources, series_named=False)
    named = [str(item.ReferencedSOPInstanceUID) for item in items_named(document, "SourceInstanceSequence")]
    if len(set(named)) < len(named) or set(named) != {str(source.SOPInstanceUID) for source in sources}:
        yield Reason("Reference", "The source instances are not each named once.")
    yield from _content(document)


def _form(document: Dataset) -> Iterator[Reason]:
    yield from form_reasons(document, _EXPECTED)
    if not document.get("DocumentTitle"):
        yield Reason("Form", "DocumentTitle is empty.")
    if code_of(document) is None:
        yield Reason("Form", "The kind of document is not coded.")


def _content(document: Dataset) -> Iterator[Reason]:
    """Demand a whole PDF of the length that is stated; one byte may fill it up to an even one (PS3.3 C.24.2)."""
    content = document.get("EncapsulatedDocument") or b""
    length = int(document.get("EncapsulatedDocumentLength") or 0)
    if len(content) != length + length % 2:
        yield Reason("Content", f"EncapsulatedDocumentLength is {length}, the document has {len(content)} bytes.")
    if not content.startswith(b"%PDF-") or not content[:length].rstrip().endswith(b"%%EOF"):
        yield Reason("Content", "The document is no whole PDF.")
