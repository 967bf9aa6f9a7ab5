"""What the content tree of every report has: its root, who observed, which procedure, which algorithm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    LanguageOfContentItemAndDescendants,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.sr.codedict import codes as standard

from sr_writer import codes
from sr_writer.codes import concept, plain_code
from sr_writer.equipment import digest_parameter
from sr_writer.source.identity import procedure_code_items
from sr_writer.texts import ascii_text, long_string
from study.codes import Code
from study.imaging import ModelIdentity

_PROCEDURES = {
    "CT": codes.CT_PROCEDURE,
    "MR": codes.MR_PROCEDURE,
    "PT": codes.PET_PROCEDURE,
    "NM": codes.NM_PROCEDURE,
}


@dataclass(frozen=True, eq=False)
class Tree:
    """A content tree, and what it refers to.

    Parameters
    ----------
    title
        Concept name of the root.
    content
        The items below the root.
    images
        Indices of the source images that are its evidence, in order.
    objects
        Other objects that it refers to.
    template
        Of the root; "" for none.
    earlier
        Images of earlier studies that it draws on.
    """

    title: Code
    content: Sequence[ContentItem]
    images: Sequence[int]
    objects: Sequence[Dataset] = ()
    template: str = ""
    earlier: Sequence[Dataset] = ()

    def root(self) -> ContainerContentItem:
        """Return the root, without what stands below it."""
        root = ContainerContentItem(concept(self.title), is_content_continuous=False, template_id=self.template or None)
        root.ContentSequence = ContentSequence([])
        return root


def container(name: Code, content: Sequence[ContentItem]) -> ContainerContentItem:
    """Return a container below the root; its items are for reading one by one, each with its name."""
    item = ContainerContentItem(
        concept(name), is_content_continuous=False, relationship_type=RelationshipTypeValues.CONTAINS
    )
    item.ContentSequence = ContentSequence(content)
    return item


def text(
    name: Code, words: str, relationship: RelationshipTypeValues = RelationshipTypeValues.CONTAINS
) -> TextContentItem:
    """Return words under a name."""
    return TextContentItem(concept(name), ascii_text(words), relationship)


def language() -> Sequence[ContentItem]:
    """Return that the report is in English (TID 1204)."""
    return cast(Sequence[ContentItem], LanguageOfContentItemAndDescendants(concept(codes.ENGLISH)))


def device(model: ModelIdentity) -> Sequence[ContentItem]:
    """Return who observed: a device, no person (TID 1001, TID 1004)."""
    observer = ObserverContext(
        observer_type=standard.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=model.device_uid,
            name=long_string(model.station_name or model.name),
            manufacturer_name=long_string(model.manufacturer),
            model_name=long_string(model.name),
            serial_number=long_string(model.serial),
        ),
    )
    return cast(Sequence[ContentItem], ObservationContext(observer_device_context=observer))


def algorithm(model: ModelIdentity) -> Iterator[ContentItem]:
    """Yield which algorithm it was, by the names of TID 4019, for where that template has no place."""
    yield text(codes.ALGORITHM_NAME, long_string(model.name))
    version = text(codes.ALGORITHM_VERSION, long_string(model.version))
    # Below the version, where viewers do not show it: for whoever must know which bundle it was
    digest = text(codes.ALGORITHM_PARAMETERS, digest_parameter(model), RelationshipTypeValues.HAS_PROPERTIES)
    version.ContentSequence = ContentSequence([digest])
    yield version


def procedure(source: Dataset) -> ContentItem:
    """Return the procedure that the modality of the source stands for; see `set_procedure_reported`."""
    modality = str(source.get("Modality", ""))
    return CodeContentItem(
        concept(codes.PROCEDURE_REPORTED),
        concept(_PROCEDURES.get(modality, codes.IMAGING_PROCEDURE)),
        RelationshipTypeValues.HAS_CONCEPT_MOD,
    )


def set_procedure_reported(document: Dataset, source: Dataset) -> None:
    """Put the procedures that the source names in place of the one that its modality stands for."""
    items = procedure_code_items(source)
    if not items:
        return
    reported = []
    for code in items:
        item = CodeContentItem(
            concept(codes.PROCEDURE_REPORTED),
            concept(codes.IMAGING_PROCEDURE),
            RelationshipTypeValues.HAS_CONCEPT_MOD,
        )
        item["ConceptCodeSequence"].value = ItemSequence([code])
        reported.append(item)
    content = list(document.ContentSequence)
    at = next(index for index, item in enumerate(content) if item.name == plain_code(codes.PROCEDURE_REPORTED))
    document.ContentSequence = ItemSequence([*content[:at], *reported, *content[at + 1 :]])
