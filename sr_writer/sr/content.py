"""What a report says of a result, settled before any of it is encoded: which regions, statements and limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sr_writer.region.areas import Areas, areas_of_region
from sr_writer.seg.describing import tracking_of
from sr_writer.sr.regions import Outlined, where_to_outline
from sr_writer.sr.statements import Statement, assessed, not_detected, segment_not_detected, without_region
from study.codes import CERTAINTY_OF_FINDING
from study.errors import EncodingError
from study.imaging import Finding, LabelMap, ResultSet


@dataclass(frozen=True, eq=False)
class ReportContent:
    """What a report says.

    Parameters
    ----------
    groups
        Findings with a measurement group, each with where it is drawn; without a region only where that was asked for.
    statements
        All else.
    limits
        Limits of use of the whole result, in words.
    compared
        The findings of `groups` once more, for a report of words: where an earlier study is compared with, or why it is
        not, must be read, and viewers show nothing of a group but its numbers.
    """

    groups: tuple[tuple[Finding, Outlined], ...]
    statements: tuple[Statement, ...]
    limits: tuple[str, ...]
    compared: tuple[Statement, ...] = ()

    @property
    def has_certainties(self) -> bool:
        """Tell whether a certainty stands in a statement, so that it must be explained."""
        return any(_is_certainty(number.name) for each in self.statements for number in each.numbers)

    @property
    def what(self) -> str:
        """Return what the report is in a word, for its Series Description: "measurements" only if it measures."""
        numbers = [measured for finding, _ in self.groups for measured in finding.measurements]
        numbers += [number for statement in self.statements for number in statement.numbers]
        if not all(_is_certainty(number.name) for number in numbers):
            return "measurements"
        return "classification" if self.has_certainties and not self.groups else "findings"


def _is_certainty(name: object) -> bool:
    return name == CERTAINTY_OF_FINDING


def content_of(
    result_set: ResultSet, areas: Areas | None, images: int, *, groups_without_region: bool
) -> ReportContent:
    """Return what a report says of a result.

    A segment of the label map without a voxel is told to be not detected, whether a finding speaks of it or not: what
    is not mentioned reads as normal. A finding over several segments tells of none of them alone.

    Parameters
    ----------
    areas
        What `areas_by_slice` gives for the label map; None where there is none.
    images
        How many source images there are.
    groups_without_region
        Whether a finding without a region gets a measurement group (PS3.16 TID 1501), or a statement.

    Raises
    ------
    EncodingError
        If there is nothing to report, or a finding is measured of which there is no voxel.
    """
    label_map = result_set.label_map
    absent = [finding for finding in result_set.findings if not _is_found(finding, label_map, areas)]
    found = [finding for finding in result_set.findings if finding not in absent]
    drawn = list(zip(found, where_to_outline(found, label_map, areas), strict=True))
    groups = [(finding, outlined) for finding, outlined in drawn if outlined.slices or groups_without_region]
    statements = [
        *map(not_detected, absent),
        *_unmentioned(result_set, absent, areas),
        *(without_region(finding) for finding, outlined in drawn if not outlined.slices and not groups_without_region),
        *assessed(result_set.assessments, images),
    ]
    if not groups and not statements:
        raise EncodingError("There is neither a finding nor an assessment to report.")
    compares = bool(result_set.earlier or result_set.not_compared)
    compared = tuple(without_region(finding) for finding, _ in groups) if compares else ()
    limits = (*result_set.limits, *result_set.earlier_limits)
    return ReportContent(tuple(groups), tuple(statements), limits, compared)


def _is_found(finding: Finding, label_map: LabelMap | None, areas: Areas | None) -> bool:
    """Tell whether a finding was detected: the model says so, and where it is a region there is a voxel of it."""
    if not finding.detected or label_map is None or areas is None or not finding.segment_values:
        return finding.detected
    values = [value for value in finding.segment_values if value < areas.shape[1]]
    if areas_of_region(label_map, areas, values).any():
        return True
    if finding.measurements:
        raise EncodingError(f"{finding.label} is measured, and the label map has no voxel of it.")
    return False


def _unmentioned(result_set: ResultSet, absent: list[Finding], areas: Areas | None) -> Iterator[Statement]:
    """Yield a statement for each segment without a voxel that no statement is about yet."""
    if result_set.label_map is None or areas is None:
        return
    told = {value for finding in absent for value in finding.segment_values}
    totals = areas.sum(axis=0)
    for segment in sorted(result_set.label_map.segments, key=lambda segment: segment.value):
        if not totals[segment.value] and segment.value not in told:
            yield segment_not_detected(segment, *tracking_of(segment, result_set.findings))
