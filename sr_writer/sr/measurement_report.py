"""The content tree of a measurement report (PS3.16 TID 1500)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from highdicom.sr import ContentItem
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.context import ResultContext
from sr_writer.sr.content import ReportContent
from sr_writer.sr.earlier import Earlier
from sr_writer.sr.image_library import library_group
from sr_writer.sr.measurement_group import measurement_group, on_contours
from sr_writer.sr.regions import Outlined
from sr_writer.sr.segment_reference import SegmentReference, reference_to, why_no_reference
from sr_writer.sr.stating import CERTAINTY_EXPLAINED, coded, comment
from sr_writer.sr.tree import Tree, algorithm, container, device, language, procedure
from study.imaging import Finding, ModelIdentity, ResultSet


def measurement_tree(
    content: ReportContent,
    result_set: ResultSet,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    segmentations: Sequence[Dataset],
    earlier: Earlier,
    *,
    on_segments: bool,
) -> Tree:
    """Return a measurement report's tree, its items in the order of the template's rows.

    Parameters
    ----------
    segmentations
        The objects of the Segmentation of the same result.
    on_segments
        Whether a group refers to the segment that is its region, where there is one; else every region is drawn.
    """
    references = [
        reference_to(finding, segmentations, model, context) if on_segments else None for finding, _ in content.groups
    ]
    groups: list[ContentItem] = []
    for (finding, outlined), reference in zip(content.groups, references, strict=True):
        limits = _remarks(finding, outlined, result_set, segmentations, on_segments=on_segments)
        group = measurement_group(
            finding,
            reference or outlined,
            result_set.label_map,
            sources,
            model,
            context,
            remarks=() if reference else tuple(limits),
        )
        groups += cast(Sequence[ContentItem], group)
    library = _shown(content, references, len(sources))
    items = [
        *language(),
        *device(model),
        procedure(sources[0]),
        _image_library([sources[index] for index in library]),
    ]
    if groups:
        items.append(container(codes.IMAGING_MEASUREMENTS, groups))
    evaluations = [*_evaluations(content, sources, model, context), *earlier.items()]
    if evaluations:
        items.append(container(codes.QUALITATIVE_EVALUATIONS, evaluations))
    return Tree(
        codes.IMAGING_MEASUREMENT_REPORT,
        items,
        library,
        _referenced(segmentations, references),
        template="1500",
        earlier=earlier.images,
    )


def _remarks(
    finding: Finding,
    outlined: Outlined,
    result_set: ResultSet,
    segmentations: Sequence[Dataset],
    *,
    on_segments: bool,
) -> Iterator[str]:
    """Yield what a group says of its contours, and first why it has them where it should refer to a segment."""
    if on_segments and outlined.slices:
        yield why_no_reference(finding, segmentations)
    yield from on_contours(finding, outlined, result_set, is_segmented=bool(segmentations))


def _image_library(shown: Sequence[Dataset]) -> ContentItem:
    """Return the Image Library, all images in one group: viewers read the first group only."""
    return container(codes.IMAGE_LIBRARY, [container(codes.IMAGE_LIBRARY_GROUP, library_group(shown))])


def _shown(content: ReportContent, references: Sequence[SegmentReference | None], images: int) -> list[int]:
    """Return the indices of the images of the Image Library: those that are drawn on or referred to.

    Of a region that is a segment it is the key image alone. A report that draws nothing still says which series it is
    about, by the middle image.
    """
    shown = {index for statement in content.statements for index in statement.images}
    for (_, outlined), reference in zip(content.groups, references, strict=True):
        shown.update(outlined.slices if reference is None else outlined.slices[:1])
    return sorted(shown) or [images // 2]


def _referenced(segmentations: Sequence[Dataset], references: Sequence[SegmentReference | None]) -> list[Dataset]:
    uids = {reference.sop_instance_uid for reference in references if reference is not None}
    return [segmentation for segmentation in segmentations if segmentation.SOPInstanceUID in uids]


def _evaluations(
    content: ReportContent, sources: Sequence[Dataset], model: ModelIdentity, context: ResultContext
) -> Iterator[ContentItem]:
    """Yield what is said outside of measurement groups; where there is none, which algorithm says it."""
    if not content.groups:
        yield from algorithm(model)
    for statement in content.statements:
        yield coded(statement, sources, model, context)
    for words in content.limits:
        yield comment(words)
    if content.has_certainties:
        yield comment(CERTAINTY_EXPLAINED)
