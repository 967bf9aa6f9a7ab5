"""How a statement is written: as a code with all that belongs to it below, and as a sentence (PS3.16 TID 1500).

The relationships are those that PS3.3 A.35.13.3.1.2 allows below a CODE.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from highdicom.sr import (
    CodeContentItem,
    ContentItem,
    ContentSequence,
    FindingSite,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.codes import concept
from sr_writer.context import ResultContext
from sr_writer.source.carrying import plain_text
from sr_writer.source.images import frame_numbers
from sr_writer.sr.changes import change_items, change_words
from sr_writer.sr.rounding import readable, unit_words
from sr_writer.sr.statements import Statement
from sr_writer.texts import ascii_text
from study.imaging import Measurement, ModelIdentity
from study.priors import day_of

CERTAINTY_EXPLAINED = (
    "Certainty of Finding is the algorithm's probability that the finding is present, also where it is not detected."
)

_DECISIONS = {
    codes.DETECTED: "detected",
    codes.NOT_DETECTED: "not detected",
    codes.ASSESSED: "not decided by the algorithm",
}


def coded(
    statement: Statement,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    relationship: RelationshipTypeValues = RelationshipTypeValues.CONTAINS,
) -> CodeContentItem:
    """Return a statement as a code, with what identifies it, its numbers, images and remarks below it."""
    item = CodeContentItem(concept(statement.name), concept(statement.value), relationship)
    tracking_uid = context.tracking_uid(model, statement.key)
    item.ContentSequence = ContentSequence(
        [
            *TrackingIdentifier(tracking_uid, ascii_text(statement.label)),
            *_subject(statement),
            *map(_number, statement.numbers),
            *(inferred_from(sources[index]) for index in statement.images),
            *(
                comment(words, RelationshipTypeValues.HAS_PROPERTIES)
                for words in (*statement.remarks, *statement.earlier)
            ),
        ]
    )
    return item


def _subject(statement: Statement) -> Iterator[CodeContentItem]:
    yield CodeContentItem(concept(codes.FINDING), concept(statement.finding), RelationshipTypeValues.HAS_CONCEPT_MOD)
    if statement.site is not None:
        side = statement.laterality
        yield FindingSite(concept(statement.site), None if side is None else concept(side))


def _number(measured: Measurement) -> NumContentItem:
    item = NumContentItem(
        concept(measured.name),
        measured.value,
        concept(measured.unit),
        None,
        RelationshipTypeValues.HAS_PROPERTIES,
    )
    below: list[ContentItem] = []
    if measured.derivation is not None:
        derivation, modifier = concept(measured.derivation), RelationshipTypeValues.HAS_CONCEPT_MOD
        below.append(CodeContentItem(concept(codes.DERIVATION), derivation, modifier))
    below += change_items(measured)
    if below:
        item.ContentSequence = ContentSequence(below)
    return item


def inferred_from(source: Dataset) -> ImageContentItem:
    """Return a reference to an image that a statement draws on."""
    return ImageContentItem(
        concept(codes.SOURCE),
        source.SOPClassUID,
        source.SOPInstanceUID,
        referenced_frame_numbers=frame_numbers(source),
        relationship_type=RelationshipTypeValues.INFERRED_FROM,
    )


def sentence(statement: Statement, sources: Sequence[Dataset]) -> str:
    """Return a statement in words, its numbers and remarks with it."""
    said = [] if statement.name == codes.MEASURED else [_DECISIONS[statement.value]]
    today = _day(sources[0])
    said += (in_words(measured) + change_words(measured, today) for measured in statement.numbers)
    if statement.images:
        said.append(f"on image {', '.join(_image_number(sources[index]) for index in statement.images)}")
    head = f"{statement.label}: {'; '.join(said)}."
    return " ".join([head, *(_ended(words) for words in (*statement.remarks, *statement.earlier))])


def _image_number(source: Dataset) -> str:
    """Return what a viewer counts an image by: its frame, or its Instance Number."""
    frames = frame_numbers(source)
    if frames is not None:
        return str(frames[0])
    number = plain_text(source, "InstanceNumber")
    return number if number.isdigit() else "without a number"


def _day(source: Dataset) -> str:
    """Return the date of a study as a reader writes it; "" where it says none."""
    day = day_of(plain_text(source, "StudyDate"))
    return day.isoformat() if day else ""


def in_words(measured: Measurement) -> str:
    """Return a number with its name and unit: "Volume 2890.1 mL", "Attenuation Coefficient (mean) -790.7 HU"."""
    derived = "" if measured.derivation is None else f" ({measured.derivation.meaning.lower()})"
    unit = unit_words(measured.unit.value)
    return f"{measured.name.meaning}{derived} {readable(measured.value)} {unit}".rstrip()


def _ended(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."


def comment(words: str, relationship: RelationshipTypeValues = RelationshipTypeValues.CONTAINS) -> TextContentItem:
    """Return a remark in words."""
    return TextContentItem(concept(codes.COMMENT), ascii_text(words), relationship)
