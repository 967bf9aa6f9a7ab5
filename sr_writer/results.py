"""From what a model found to result objects on disk: written, synced, read back and checked, each exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from sr_writer.checking.objects import Segmentations, checked, naming
from sr_writer.checking.seg_set import check_set
from sr_writer.context import ResultContext
from sr_writer.laps import Laps
from sr_writer.material import Material, Pixels
from sr_writer.picture.encapsulated_pdf import write_pdf
from sr_writer.picture.secondary_capture import write_captures
from sr_writer.rtstruct.writing import write_structure_sets
from sr_writer.saving import saved
from sr_writer.seg.writing import write_seg
from sr_writer.source.images import SourceImages
from sr_writer.sr.document import write_reports
from study.entities import ResultObject
from study.errors import EncodingError
from study.forms import REPORTS, SEGMENTATIONS, Form, Variant, in_order, segmentation_of
from study.imaging import ModelIdentity, ResultSet

STANDARD: Final = (Variant(Form.SEG), Variant(Form.SR, segmentation=Form.SEG))
"""What is made where nobody says what: a Segmentation, and a report with contours beside it."""


def write_results(
    result_set: ResultSet,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    folder: Path,
    variants: Sequence[Variant] = STANDARD,
    pixels: Pixels | None = None,
    earlier: Sequence[Sequence[Dataset]] = (),
    laps: Laps | None = None,
) -> list[ResultObject]:
    """Write every variant of a result into `folder`, and return the objects, Segmentations first.

    Each file is durable, and was read back and held against the source headers, before it is returned. A label map
    without a voxel makes no Segmentation: the report then says what was not detected. Nor do assessments alone.

    Parameters
    ----------
    sources
        Headers of the source images in slice order: `label_map.values[k]` lies on `sources[k]`. For a multi-frame image
        one for each frame (`study.frames.flattened`).
    folder
        Made if absent; the paths of the objects are relative to it.
    variants
        What to make; with a report on segments the Segmentation that it refers to.
    pixels
        Of the source images, for forms that show them.
    earlier
        Headers of the images of each of the earlier series that the result names, in slice order.
    laps
        Has the time of each form, and of "check", when this returns.

    Raises
    ------
    EncodingError
        One of MissingIdentity, GeometryMismatch, NonconformantObject, or itself for what can not be written.
    """
    laps = laps or Laps()
    sources = SourceImages.of(sources)  # all that follows asks the same of their headers
    material = Material(result_set, sources, model, context, pixels, earlier)
    of_before = [header for headers in earlier for header in headers]
    written: dict[Variant, list[Dataset]] = {}
    results: list[ResultObject] = []
    names: Counter[Form] = Counter()
    for variant in in_order(variants):
        beside = _beside(variant, written)
        written[variant] = []
        for dataset in _WRITERS[variant.form](material, variant, beside):
            names[variant.form] += 1
            result = saved(variant, names[variant.form], dataset, folder)
            laps.end(variant.form.value)
            written[variant].append(checked(variant.form, folder / result.path, sources, beside, of_before))
            results.append(result)
            laps.end("check")
        if variant.form in SEGMENTATIONS:
            with naming(folder / f"{variant.form}.dcm"):
                check_set(written[variant], material, variant)
            laps.end("check")
    return results


def _beside(variant: Variant, written: Mapping[Variant, Segmentations]) -> Segmentations:
    """Return the Segmentation that a report refers to or speaks of; none where its set has none.

    Raises
    ------
    EncodingError
        If a report refers to a Segmentation that is not made.
    """
    wanted = segmentation_of(variant)
    if wanted is not None:
        if wanted not in written:
            raise EncodingError(f"{variant.key} refers to {wanted.key}, which is not made.")
        return written[wanted]
    if variant.form not in REPORTS or variant.segmentation is None:
        return ()
    # Whichever it is: they have the same regions under the same Tracking UIDs
    return next((objects for other, objects in written.items() if other.form in SEGMENTATIONS), ())


def _segmentation(material: Material, variant: Variant, _: Segmentations) -> list[Dataset]:
    if not material.has_voxels:
        return []
    return write_seg(
        material.result_set,
        material.sources,
        material.model,
        material.context,
        areas=material.areas,
        variant=variant,
    )


def _report(material: Material, variant: Variant, segmentations: Segmentations) -> list[Dataset]:
    return write_reports(
        material.result_set,
        material.sources,
        material.model,
        material.context,
        segmentations,
        areas=material.areas,
        variant=variant,
        earlier=material.earlier,
    )


_WRITERS: Final[Mapping[Form, Callable[[Material, Variant, Segmentations], Iterable[Dataset]]]] = {
    Form.SEG: _segmentation,
    Form.SEG_LABELMAP: _segmentation,
    Form.RTSTRUCT: lambda material, variant, _: write_structure_sets(material, variant),
    Form.SR: _report,
    Form.SR_SEGMENTS: _report,
    Form.SR_COMPREHENSIVE: _report,
    Form.SC: lambda material, variant, _: write_captures(material, variant),
    Form.PDF: lambda material, variant, _: [write_pdf(material, variant)],
}
"""What makes the objects of each form; none where the result has nothing that the form could show."""
