"""Which segment of which Segmentation object a finding is, for reports that refer to segments.

A group refers to one segment (PS3.16 TID 1411). Two Referenced Segment Numbers in one reference pass DicomSRValidator,
and dcmqi's tid1500reader then takes the first for the whole region without a word; so a region of several segments is
drawn, as is one whose segment is cut over two objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from highdicom.sr import ReferencedSegment, SourceSeriesForSegmentation
from pydicom.dataset import Dataset

from sr_writer.codes import SOURCE_SERIES_FOR_SEGMENTATION, concept
from sr_writer.context import ResultContext
from sr_writer.reading.content_tree import items_named
from study.imaging import Finding, ModelIdentity


@dataclass(frozen=True)
class SegmentReference:
    """One segment of a Segmentation object."""

    sop_class_uid: str
    sop_instance_uid: str
    segment_number: int

    def content(self, series_instance_uid: str) -> ReferencedSegment:
        """Return the reference as content items (PS3.16 TID 1411).

        Parameters
        ----------
        series_instance_uid
            Of the source images: naming the series once keeps the report lean.
        """
        series = SourceSeriesForSegmentation(series_instance_uid)
        # highdicom has other capitals than the standard, and validators mind
        series.ConceptNameCodeSequence = [concept(SOURCE_SERIES_FOR_SEGMENTATION)]
        return ReferencedSegment(self.sop_class_uid, self.sop_instance_uid, self.segment_number, source_series=series)


def reference_to(
    finding: Finding, segmentations: Sequence[Dataset], model: ModelIdentity, context: ResultContext
) -> SegmentReference | None:
    """Return the segment that is the region of a finding; None where there is not one that is it alone and whole.

    Parameters
    ----------
    segmentations
        The objects of the Segmentation; the segment is found by its Tracking UID, whatever its number is there.
    """
    tracking_uid = context.tracking_uid(model, finding.key)
    found = [
        SegmentReference(str(each.SOPClassUID), str(each.SOPInstanceUID), int(item.SegmentNumber))
        for each in segmentations
        for item in items_named(each, "SegmentSequence")
        if item.get("TrackingUID") == tracking_uid
    ]
    return found[0] if len(found) == 1 else None


def why_no_reference(finding: Finding, segmentations: Sequence[Dataset]) -> str:
    """Return in words why the region of a finding is drawn in a report that refers to segments."""
    if not segmentations:
        return "Drawn here, since no Segmentation of this result is sent."
    if len(finding.segment_values) > 1:
        return "Drawn here, since a report can refer to one segment only, and the region is several together."
    return "Drawn here, since the Segmentation has no segment that is this region alone and whole."
