"""Write a result as an Encapsulated PDF of one page (PS3.3 A.45.1)."""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import EncapsulatedPDFStorage

from sr_writer.codes import code_item, identify_private_schemes
from sr_writer.context import ResultContext
from sr_writer.equipment import add_contributing_equipment, digest_parameter, set_equipment, set_times
from sr_writer.material import Material
from sr_writer.picture.page import Imprint, page_of
from sr_writer.picture.scene import scene_of
from sr_writer.source.identity import demand_identity, set_identity, set_request_attributes
from sr_writer.source.images import instance_items
from sr_writer.texts import long_string
from study.codes import Code
from study.forms import Variant
from study.imaging import ModelIdentity

DOCUMENT: Final = Code("18748-4", "LN", "Diagnostic imaging study")
"""What kind of document it is (CID 7020)."""


def write_pdf(material: Material, variant: Variant) -> Dataset:
    """Return a result as a page, ready to be saved.

    The page says whose it is, so Burned In Annotation is YES.

    Raises
    ------
    MissingIdentity
        If the source lacks what a result must carry.
    GeometryMismatch
        If the label map does not lie on the grid of the source images.
    EncodingError
        If nothing gives the pixels, or there is nothing to show.
    """
    model, context, source = material.model, material.context, material.sources[0]
    demand_identity(source, allow_empty_patient_id=context.allow_empty_patient_id)
    content = page_of(scene_of(material), _imprint(model, context, source))
    document = Dataset()
    document.SOPClassUID = EncapsulatedPDFStorage
    document.SOPInstanceUID = context.uid(model, "instance", variant)
    document.SeriesInstanceUID = context.uid(model, "series", variant)
    document.Modality = "DOC"
    document.SeriesNumber = context.series_number(variant.form)
    document.SeriesDescription = context.series_description(model, "page", variant)
    document.InstanceNumber = 1
    document.ConversionType = "WSD"
    document.AcquisitionDateTime = ""
    document.BurnedInAnnotation = "YES"
    document.SourceInstanceSequence = ItemSequence(instance_items(material.sources))
    document.DocumentTitle = long_string(document.SeriesDescription)
    document.ConceptNameCodeSequence = ItemSequence([code_item(DOCUMENT)])
    document.VerificationFlag = "UNVERIFIED"
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    document.EncapsulatedDocumentLength = len(content)
    set_equipment(document, model)
    add_contributing_equipment(document, model)
    set_times(document, context, source)
    identify_private_schemes(document)
    set_identity(document, source, allow_empty_patient_id=context.allow_empty_patient_id)
    set_request_attributes(document, source)
    return document


def _imprint(model: ModelIdentity, context: ResultContext, source: Dataset) -> Imprint:
    return Imprint(
        made=f"{context.local_time(source):%Y-%m-%d %H:%M}",
        lines=(
            f"Model {model.name} {model.version}, {digest_parameter(model)}",
            f"Made by {model.manufacturer} {model.software_version}, serial {model.serial}, device {model.device_uid}",
        ),
    )
