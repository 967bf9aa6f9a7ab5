"""Write findings as Structured Reports: as measurements (PS3.16 TID 1500), and in words what has no region.

What a viewer shows decides the form. In OHIF 3.12.10 a measurement report (root 126000, DCM) shows its contours with
numbers and site, and nothing else of it; and the whole viewport goes blank as soon as one measurement group has no
contour, be it that it refers to a segment or has no region at all, or if there is no group. A group around the whole
image shows, and makes "not detected" look like a finding. A report of any other root is shown as its text. Of a series
the last report alone is seen. So

- `sr` and `sr_comprehensive` have groups for regions alone, drawn as contours on key images. What has no region is a
  report of words (`sr_writer.sr.words`), in a series of its own. Beside contours it stands among the Qualitative
  Evaluations too, so that the measurement report is whole for who reads all of it.
- `sr_segments` is TID 1500 always, for archives and research tools: its groups refer to the segments of the
  Segmentation, and what has no region gets a group too. OHIF can not show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from highdicom.sr import Comprehensive3DSR, ComprehensiveSR, ContentSequence, EnhancedSR
from pydicom.dataset import Dataset

from sr_writer.codes import identify_private_schemes
from sr_writer.context import ResultContext
from sr_writer.equipment import add_contributing_equipment, set_equipment, set_times
from sr_writer.region.areas import Areas, areas_by_slice
from sr_writer.source.grid import demand_grid
from sr_writer.source.identity import demand_identity, set_identity, set_referenced_request
from sr_writer.source.stand_ins import images
from sr_writer.sr.content import ReportContent, content_of
from sr_writer.sr.earlier import Earlier, evidence_of
from sr_writer.sr.measurement_report import measurement_tree
from sr_writer.sr.predecessors import predecessor_documents
from sr_writer.sr.tree import Tree, set_procedure_reported
from sr_writer.sr.words import tree_of_words
from sr_writer.texts import long_string
from study.forms import Form, Variant
from study.imaging import ModelIdentity, ResultSet

WITH_CONTOURS = Variant(Form.SR)

_CLASSES = {Form.SR: Comprehensive3DSR, Form.SR_SEGMENTS: Comprehensive3DSR, Form.SR_COMPREHENSIVE: ComprehensiveSR}


def write_reports(
    result_set: ResultSet,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    segmentations: Sequence[Dataset] = (),
    *,
    areas: Areas | None = None,
    variant: Variant = WITH_CONTOURS,
    earlier: Sequence[Sequence[Dataset]] = (),
) -> list[Dataset]:
    """Return findings and assessments as reports, complete and unverified, ready to be saved.

    One report, or two in series of their own where some of what is said has a region and some has none.

    Parameters
    ----------
    sources
        Headers of the source images in slice order: `label_map.values[k]` lies on `sources[k]`. For a multi-frame image
        one for each frame (`study.frames.flattened`).
    segmentations
        The objects of the Segmentation of the same result, that the report speaks of or refers to; none where there is
        no Segmentation.
    areas
        What `areas_by_slice` gives for the label map, where it was asked before.
    variant
        `sr`, `sr_segments` or `sr_comprehensive`, see above.
    earlier
        Headers of the images of each of the earlier series that the result names, in slice order.

    Raises
    ------
    MissingIdentity
        If the source lacks what a result must carry.
    GeometryMismatch
        If the label map does not lie on the grid of the source images.
    EncodingError
        If there is nothing to report, a finding is measured of which there is no voxel, or a text, name or number can
        not be written.
    """
    demand_identity(sources[0], allow_empty_patient_id=context.allow_empty_patient_id)
    label_map = result_set.label_map
    if label_map is not None:
        demand_grid(label_map, sources)
        areas = areas_by_slice(label_map) if areas is None else areas
    on_segments = variant.form is Form.SR_SEGMENTS
    content = content_of(result_set, areas, len(sources), groups_without_region=on_segments)
    before = Earlier.of(result_set, earlier)
    reports = []
    if content.groups or on_segments:
        tree = measurement_tree(
            content, result_set, sources, model, context, segmentations, before, on_segments=on_segments
        )
        of_segments = " of segments" if on_segments and content.groups else ""
        place = _place(content.what + of_segments, model, context, variant)
        reports.append(document(_CLASSES[variant.form], tree, place, sources, model, context, variant))
    if (content.statements or content.compared) and not on_segments:
        tree = tree_of_words(content, sources, model, context, before)
        place = _place_of_words(content, model, context, variant)
        reports.append(document(_CLASSES[variant.form], tree, place, sources, model, context, variant))
    return reports


@dataclass(frozen=True)
class Place:
    """Which instance of which series a document is.

    Parameters
    ----------
    description
        Its Series Description.
    """

    instance_uid: str
    series_uid: str
    series_number: int
    description: str


def _place(what: str, model: ModelIdentity, context: ResultContext, variant: Variant) -> Place:
    return Place(
        context.uid(model, "instance", variant),
        context.uid(model, "series", variant),
        context.series_number(variant.form),
        context.series_description(model, what, variant),
    )


def _place_of_words(content: ReportContent, model: ModelIdentity, context: ResultContext, variant: Variant) -> Place:
    """Return where a report of words stands: it is the first report where there is no other."""
    if not content.groups:
        return _place(content.what, model, context, variant)
    what = replace(content, groups=()).what
    words = "comparison" if content.compared else "values in words" if what == "measurements" else what
    return Place(
        context.uid(model, "instance:words", variant),
        context.uid(model, "series:words", variant),
        context.series_number(variant.form, of_words=True),
        context.series_description(model, words, variant),
    )


def document(
    sop_class: type[Comprehensive3DSR | ComprehensiveSR | EnhancedSR],
    tree: Tree,
    place: Place,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    variant: Variant | None = None,
) -> Dataset:
    """Return a content tree as a document about the source images.

    Parameters
    ----------
    variant
        Of the result; the document names the reports of the same variant that it takes the place of. None: it takes
        the place of none.

    Raises
    ------
    MissingIdentity
        If the source lacks what a result must carry.
    """
    evidence = [*images(sources, tree.images).values(), *images(tree.objects, range(len(tree.objects))).values()]
    made: Dataset = sop_class(
        evidence=evidence,
        content=tree.root(),
        series_instance_uid=place.series_uid,
        series_number=place.series_number,
        sop_instance_uid=place.instance_uid,
        instance_number=1,
        manufacturer=long_string(model.manufacturer),
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=place.description,
    )
    # Set here and not passed to highdicom, which would copy the whole tree; that evidence is complete is checked later
    made.ContentSequence = ContentSequence(tree.content)
    if tree.earlier:
        made.PertinentOtherEvidenceSequence = evidence_of(tree.earlier)
    if before := [each for each in context.predecessors if variant is not None and each.variant == variant.key]:
        made.PredecessorDocumentsSequence = predecessor_documents(before, str(sources[0].StudyInstanceUID))
    set_equipment(made, model)
    add_contributing_equipment(made, model)
    set_times(made, context, sources[0])
    set_procedure_reported(made, sources[0])
    # Before the source's own identity comes in, whose codes are not ours to explain
    identify_private_schemes(made)
    set_identity(made, sources[0], allow_empty_patient_id=context.allow_empty_patient_id)
    set_referenced_request(made, sources[0])
    return made
