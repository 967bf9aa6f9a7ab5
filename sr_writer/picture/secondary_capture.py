"""Write pictures of a result as Secondary Capture Images (PS3.3 A.8.1), for viewers that show nothing but images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage
from pydicom.valuerep import DSfloat

from sr_writer.codes import code_item, identify_private_schemes
from sr_writer.equipment import add_contributing_equipment, set_equipment, set_times
from sr_writer.material import Material
from sr_writer.picture.directions import patient_orientation
from sr_writer.picture.painting import size_of
from sr_writer.picture.scene import scene_of
from sr_writer.picture.sheet import sheet
from sr_writer.source.carrying import carry
from sr_writer.source.grid import has_place
from sr_writer.source.identity import demand_identity, set_identity, set_request_attributes
from sr_writer.source.images import frame_numbers, instance_items
from sr_writer.texts import ascii_text
from study.codes import Code
from study.forms import Variant

SOURCE_IMAGE: Final = Code("121322", "DCM", "Source image for image processing operation")
_LOSSY: Final = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def write_captures(material: Material, variant: Variant) -> Iterator[Dataset]:
    """Yield a picture of each source image that has a finding, in their order, ready to be saved.

    Where nothing was found it is one picture, of the middle slice, that says so.

    Raises
    ------
    MissingIdentity
        If the source lacks what a result must carry.
    GeometryMismatch
        If the label map does not lie on the grid of the source images.
    EncodingError
        If nothing gives the pixels, or there is nothing to show.
    """
    demand_identity(material.sources[0], allow_empty_patient_id=material.context.allow_empty_patient_id)
    scene = scene_of(material)
    for number, index in enumerate(scene.key_slices(variant.most_images), 1):
        yield _capture(material, variant, number, index, sheet(scene, index))


def _capture(material: Material, variant: Variant, number: int, index: int, picture: NDArray[np.uint8]) -> Dataset:
    model, context, source = material.model, material.context, material.sources[index]
    capture = Dataset()
    capture.SOPClassUID = SecondaryCaptureImageStorage
    capture.SOPInstanceUID = context.uid(model, "instance" if number == 1 else f"instance:{number}", variant)
    capture.SeriesInstanceUID = context.uid(model, "series", variant)
    capture.Modality = "OT"
    capture.SeriesNumber = context.series_number(variant.form)
    capture.SeriesDescription = context.series_description(model, "pictures", variant)
    capture.InstanceNumber = number
    capture.ConversionType = "SYN"
    _describe(capture, source, context.description or model.name)
    _set_pixels(capture, picture, compressed=variant.compressed)
    set_equipment(capture, model)
    add_contributing_equipment(capture, model)
    set_times(capture, context, source)
    identify_private_schemes(capture)
    set_identity(capture, material.sources[0], allow_empty_patient_id=context.allow_empty_patient_id)
    set_request_attributes(capture, material.sources[0])
    return capture


def _describe(capture: Dataset, source: Dataset, what: str) -> None:
    """Say what the picture shows, and of which image (General Image and General Reference Modules).

    It is no picture that identifies anybody: neither patient nor date is drawn, which is what Burned In Annotation is
    about (PS3.3 C.7.6.1).
    """
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.BurnedInAnnotation = "NO"
    capture.PatientOrientation = list(patient_orientation(source) or ()) or ""
    if has_place(source):
        step = DSfloat(size_of(source)[2], auto_format=True)
        capture.PixelSpacing = [step, step]
    capture.DerivationDescription = ascii_text(f"{what}: source image with the result drawn in, for viewing only")
    item = Dataset()
    item.ReferencedSOPClassUID = source.SOPClassUID
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    numbers = frame_numbers(source)
    if numbers is not None:
        item.ReferencedFrameNumber = numbers
    item.PurposeOfReferenceCodeSequence = ItemSequence([code_item(SOURCE_IMAGE)])
    capture.SourceImageSequence = ItemSequence([item])
    capture.ReferencedSeriesSequence = ItemSequence([series_item([source])])
    capture.Laterality = ""  # Type 2C where nothing says that the body part is no paired one
    carry(source, ("Laterality", *_LOSSY), capture)


def series_item(sources: Sequence[Dataset]) -> Dataset:
    """Return a reference to the series of some images, and to them (Common Instance Reference, PS3.3 C.12.2)."""
    series = Dataset()
    series.SeriesInstanceUID = sources[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = ItemSequence(instance_items(sources))
    return series


def _set_pixels(capture: Dataset, picture: NDArray[np.uint8], *, compressed: bool) -> None:
    rows, columns, _ = picture.shape
    capture.SamplesPerPixel = 3
    capture.PhotometricInterpretation = "RGB"
    capture.PlanarConfiguration = 0
    capture.Rows, capture.Columns = rows, columns
    capture.BitsAllocated, capture.BitsStored, capture.HighBit, capture.PixelRepresentation = 8, 8, 7, 0
    encoded = picture.tobytes()
    capture.PixelData = encoded + b"\0" * (len(encoded) % 2)
    capture.file_meta = FileMetaDataset()
    capture.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if compressed:
        capture.compress(RLELossless, generate_instance_uid=False, encoding_plugin="pylibjpeg")
