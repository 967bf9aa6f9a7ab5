"""Tell an archive that results are taken back: a Key Object Selection (PS3.3 A.35.4, PS3.16 TID 2010).

Its title is what archives act on that know Imaging Object Change Management (IHE RAD): they hide or delete what it
refers to. To others it is an object like any other, whose words say what to do by hand. Everything that it says of
patient, study and order is what the rejected objects say, byte for byte; so no image has to be at hand any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import (
    CompositeContentItem,
    ContentItem,
    ImageContentItem,
    RelationshipTypeValues,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer import codes
from sr_writer.codes import concept, plain_code
from sr_writer.context import ResultContext
from sr_writer.equipment import DIGEST, add_contributing_equipment, set_equipment, set_times
from sr_writer.reading.content_tree import items_named
from sr_writer.source.carrying import carry, plain_text
from sr_writer.source.identity import set_identity, set_referenced_request
from sr_writer.source.stand_ins import images
from sr_writer.sr.tree import device, language, text
from sr_writer.texts import long_string, spelled_out
from study.codes import Code
from study.errors import EncodingError
from study.forms import Form, Variant
from study.imaging import ModelIdentity
from study.uids import derive_uid

REJECTION = Variant(Form.REJECTION)

_DIGEST_SAID = re.compile(rf"{DIGEST}=([0-9a-f]{{64}})")


@dataclass(frozen=True)
class Rejection:
    """Why results are taken back.

    Parameters
    ----------
    words
        A person's.
    safety
        Whether a patient may come to harm by them.
    """

    words: str
    safety: bool = False

    @property
    def title(self) -> Code:
        """Return the document title that says so (CID 7010)."""
        return codes.REJECTED_FOR_SAFETY if self.safety else codes.REJECTED_FOR_QUALITY


def write_rejection(
    rejection: Rejection, rejected: Sequence[Dataset], model: ModelIdentity, context: ResultContext
) -> Dataset:
    """Return a Key Object Selection that rejects result objects of one analysis, ready to be saved.

    Its UIDs derive from the objects and the reason: the same ones give the same UIDs.

    Parameters
    ----------
    rejected
        Headers of the objects; one or more, of one study.
    model
        Who made them: `maker_of`.
    context
        `created_at` is when they were taken back.

    Raises
    ------
    MissingIdentity
        If they do not say whose they are.
    EncodingError
        If there is none, or they are of several studies.
    """
    if len({str(each.get("StudyInstanceUID", "")) for each in rejected}) != 1:
        raise EncodingError("Results are rejected study by study, and one at least.")
    shown = list(images(rejected, range(len(rejected))).values())
    role = [rejection.title.value, rejection.words, *sorted(str(each.SOPInstanceUID) for each in rejected)]
    made: Dataset = KeyObjectSelectionDocument(
        evidence=shown,
        content=KeyObjectSelection(plain_code(rejection.title), shown),
        series_instance_uid=derive_uid("rejection", "series", model.device_uid, *role),
        series_number=context.series_number(Form.REJECTION),
        sop_instance_uid=derive_uid("rejection", "instance", model.device_uid, *role),
        instance_number=1,
        manufacturer=long_string(model.manufacturer),
        series_description=context.series_description(model, "withdrawn", REJECTION),
    )
    # No ContentSequence of highdicom's, which demands a name of each item
    made.ContentSequence = ItemSequence([*_content(rejection, model), *_references(rejected)])
    set_equipment(made, model)
    add_contributing_equipment(made, model)
    set_times(made, context, rejected[0])
    subject = subject_of(rejected)
    set_identity(made, subject, allow_empty_patient_id=context.allow_empty_patient_id)
    if "ReferencedRequestSequence" in subject:
        carry(subject, ("ReferencedRequestSequence",), made)
    else:
        set_referenced_request(made, subject)
    return made


def subject_of(rejected: Sequence[Dataset]) -> Dataset:
    """Return the object that says most of the order that the others belong to as well: a report, where there is one."""
    reports = [each for each in rejected if "ReferencedRequestSequence" in each]
    return (reports or list(rejected))[0]


def maker_of(result: Dataset, software_version: str) -> ModelIdentity:
    """Return who made a result object, by what it says itself: its model may be in no configuration any more.

    Parameters
    ----------
    software_version
        Of this program.

    Raises
    ------
    EncodingError
        If it does not say it.
    """
    said = [
        found[1]
        for item in items_named(result, "ContributingEquipmentSequence")
        if (found := _DIGEST_SAID.search(plain_text(item, "ContributionDescription")))
    ]
    keywords = ("ManufacturerModelName", "SoftwareVersions", "DeviceUID", "Manufacturer", "DeviceSerialNumber")
    values = {keyword: plain_text(result, keyword) for keyword in keywords}
    if not said or not all(values.values()):
        raise EncodingError("The result does not say which model made it, as every result of Hilum's does.")
    return ModelIdentity(
        name=values["ManufacturerModelName"],
        version=values["SoftwareVersions"].split("\\")[0].strip(),
        digest=said[0],
        device_uid=values["DeviceUID"],
        manufacturer=values["Manufacturer"],
        software_version=software_version,
        serial=values["DeviceSerialNumber"],
        station_name=plain_text(result, "StationName"),
    )


def _content(rejection: Rejection, model: ModelIdentity) -> Iterator[ContentItem]:
    # No modifier of the title: none is demanded, and those of CID 7011 say what went wrong in taking an image
    yield from language()
    yield from device(model)
    yield text(codes.KEY_OBJECT_DESCRIPTION, spelled_out(rejection.words))


def _references(rejected: Sequence[Dataset]) -> Iterator[Dataset]:
    """Yield a reference to each object, without a purpose, as TID 2010 has it: an image has rows, whatever it shows."""
    for each in rejected:
        kind = ImageContentItem if "Rows" in each else CompositeContentItem
        classes = str(each.SOPClassUID), str(each.SOPInstanceUID)
        item = kind(concept(codes.SOURCE), *classes, relationship_type=RelationshipTypeValues.CONTAINS)
        del item.ConceptNameCodeSequence
        yield item
