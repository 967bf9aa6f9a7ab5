"""Write findings as a Structured Report: Comprehensive 3D SR, Measurement Report (PS3.16 TID 1500)."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import (
    CodeContentItem,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    LanguageOfContentItemAndDescendants,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.sr.codedict import codes as standard

from sr_writer import codes
from sr_writer.codes import concept, identify_private_schemes, long_string, plain_code
from sr_writer.context import ResultContext
from sr_writer.equipment import add_contributing_equipment, set_equipment, set_times
from sr_writer.region.areas import Areas, areas_by_slice
from sr_writer.source.grid import demand_grid
from sr_writer.source.identity import demand_identity, procedure_code_items, set_identity, set_referenced_request
from sr_writer.source.stand_ins import images
from sr_writer.sr.image_library import library_group
from sr_writer.sr.measurement_group import Group, measurement_group, where_to_outline
from sr_writer.sr.statements import CERTAINTY_EXPLAINED, assessed, comment, images_of, not_detected
from study.codes import Code
from study.errors import EncodingError
from study.forms import Form, Variant
from study.imaging import ModelIdentity, ResultSet

WITH_CONTOURS = Variant(Form.SR)

_PROCEDURES = {
    "CT": codes.CT_PROCEDURE,
    "MR": codes.MR_PROCEDURE,
    "PT": codes.PET_PROCEDURE,
    "NM": codes.NM_PROCEDURE,
}


def write_sr(
    result_set: ResultSet,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    *,
    segmentation_is_written: bool = True,
    areas: Areas | None = None,
    variant: Variant = WITH_CONTOURS,
) -> Dataset:
    """Return findings and assessments as a report, complete and unverified, ready to be saved.

    Parameters
    ----------
    sources
        Headers of the source images in slice order: `label_map.values[k]` lies on `sources[k]`. For a multi-frame image
        one for each frame (`study.frames.flattened`).
    segmentation_is_written
        Whether a Segmentation of the same result exists, so that the report may speak of it.
    areas
        What `areas_by_slice` gives for the label map, where it was asked before.

    Raises
    ------
    MissingIdentity
        If the source lacks what a result must carry.
    GeometryMismatch
        If the label map does not lie on the grid of the source images.
    EncodingError
        If there is neither a finding nor an assessment, or a text, name or number that can not be written.
    """
    if not result_set.findings and not result_set.assessments:
        raise EncodingError("There is neither a finding nor an assessment to report.")
    demand_identity(sources[0], allow_empty_patient_id=context.allow_empty_patient_id)
    label_map = result_set.label_map
    if label_map is not None:
        demand_grid(label_map, sources)
        areas = areas_by_slice(label_map) if areas is None else areas
    drawn = where_to_outline(result_set.findings, label_map, areas)
    groups = [
        measurement_group(
            finding, outlined, label_map, sources, model, context, segmentation_is_written=segmentation_is_written
        )
        for finding, outlined in zip(result_set.findings, drawn, strict=True)
        if finding.detected
    ]
    concerned = images_of(result_set.assessments, len(sources))
    evaluations = list(_evaluations(result_set, concerned, sources, model, context))
    # A report that draws nothing still says which series it is about, by the middle image
    shown = {index for outlined in drawn for index in outlined.slices}.union(*concerned) or {len(sources) // 2}
    document = Comprehensive3DSR(
        evidence=list(images(sources, sorted(shown)).values()),
        content=_container(codes.IMAGING_MEASUREMENT_REPORT, [], template="1500"),
        series_instance_uid=context.uid(model, "series", variant),
        series_number=context.series_number(variant.form),
        sop_instance_uid=context.uid(model, "instance", variant),
        instance_number=1,
        manufacturer=long_string(model.manufacturer),
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=context.series_description(model, "measurements", variant),
    )
    # Set here and not passed to highdicom, which would copy the whole tree; that evidence is complete is checked later
    library = [sources[index] for index in sorted(shown)]
    document.ContentSequence = ContentSequence(_content(groups, evaluations, library, model))
    set_equipment(document, model)
    add_contributing_equipment(document, model)
    set_times(document, context, sources[0])
    _set_procedure_reported(document, sources[0])
    # Before the source's own codes come in, whose schemes are not ours to explain
    identify_private_schemes(document)
    set_identity(document, sources[0], allow_empty_patient_id=context.allow_empty_patient_id)
    set_referenced_request(document, sources[0])
    return document


def _evaluations(
    result_set: ResultSet,
    concerned: Sequence[Sequence[int]],
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
) -> list[ContentItem]:
    """Return what is said outside of measurement groups.

    Parameters
    ----------
    concerned
        For each assessment the indices of the images that it refers to.
    """
    return [
        *(not_detected(finding, model, context) for finding in result_set.findings if not finding.detected),
        *(
            assessed(assessment, referenced, sources, model, context)
            for assessment, referenced in zip(result_set.assessments, concerned, strict=True)
        ),
        *(comment(words) for words in result_set.limits),
        *(
            [comment(CERTAINTY_EXPLAINED)]
            if any(each.probability is not None for each in result_set.assessments)
            else []
        ),
    ]


def _content(
    groups: Sequence[Group], evaluations: Sequence[ContentItem], library: Sequence[Dataset], model: ModelIdentity
) -> list[ContentItem]:
    """Return what stands below the root of the content tree, in the order of the template's rows.

    Parameters
    ----------
    library
        Headers of the images that the report refers to.
    """
    modality = str(library[0].get("Modality", ""))
    content = [
        *LanguageOfContentItemAndDescendants(concept(codes.ENGLISH)),
        *ObservationContext(observer_device_context=_device(model)),
        CodeContentItem(
            concept(codes.PROCEDURE_REPORTED),
            concept(_PROCEDURES.get(modality, codes.IMAGING_PROCEDURE)),
            RelationshipTypeValues.HAS_CONCEPT_MOD,
        ),
        # All images in one group: viewers read the first group only
        _container(codes.IMAGE_LIBRARY, [_container(codes.IMAGE_LIBRARY_GROUP, library_group(library))]),
    ]
    if groups:
        content.append(_container(codes.IMAGING_MEASUREMENTS, [item for group in groups for item in group]))
    if evaluations:
        content.append(_container(codes.QUALITATIVE_EVALUATIONS, evaluations))
    return content


def _device(model: ModelIdentity) -> ObserverContext:
    """Return who observed: a device, no person (PS3.16 TID 1004)."""
    return ObserverContext(
        observer_type=standard.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=model.device_uid,
            name=long_string(model.station_name or model.name),
            manufacturer_name=long_string(model.manufacturer),
            model_name=long_string(model.name),
            serial_number=long_string(model.serial),
        ),
    )


def _container(name: Code, content: Sequence[ContentItem], template: str | None = None) -> ContainerContentItem:
    # The root alone names its template, and alone has no relationship to a parent
    relationship = None if template else RelationshipTypeValues.CONTAINS
    container = ContainerContentItem(concept(name), template_id=template, relationship_type=relationship)
    container.ContentSequence = ContentSequence(content)
    return container


def _set_procedure_reported(document: Dataset, source: Dataset) -> None:
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
