"""Two lungs in boxes, compared with the same of two earlier dates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset

from study.changes import compared
from study.imaging import EarlierSeries, ResultSet
from tests.support.results import headers_on_disk, lungs, result_of

SHAPE = (9, 16, 24)
SPRING, WINTER = "20230511", "20210302"
REFUSED = "Not compared with the study of 2019-01-01: another birth date is stated there."


@dataclass(frozen=True, eq=False)
class Compared:
    """A result with what was found in two earlier studies beside it, and the headers of all three."""

    result: ResultSet
    sources: list[Dataset]
    earlier: list[list[Dataset]]

    @property
    def images(self) -> list[Dataset]:
        """The headers of the earlier studies."""
        return [header for headers in self.earlier for header in headers]


def compared_lungs(folder: Path, shape: tuple[int, int, int] = SHAPE) -> Compared:
    """Return the lungs of 2026-01-02: 80 mL less than in 2023 and 60 mL more than in 2021 on the right."""
    now, result = headers_on_disk(folder / "now", shape), result_of(lungs(shape))
    earlier = []
    for date, more in ((SPRING, 80.0), (WINTER, -60.0)):
        described = {"StudyDate": date, "SeriesDescription": "Lung 1.0 B31f"}
        headers = headers_on_disk(folder / date, shape, attributes=described)
        result = compared(result, _grown(more, shape), series_of(headers))
        earlier.append(headers)
    return Compared(replace(result, not_compared=(REFUSED,)), now, earlier)


def series_of(headers: Sequence[Dataset]) -> EarlierSeries:
    """Return which series it is."""
    first = headers[0]
    return EarlierSeries(
        str(first.StudyInstanceUID),
        str(first.SeriesInstanceUID),
        first.StudyDate,
        first.StudyTime,
        int(first.SeriesNumber),
        first.SeriesDescription,
        first.Modality,
    )


def _grown(more: float, shape: tuple[int, int, int]) -> ResultSet:
    """Return a result whose numbers are greater, each by so much."""
    result = result_of(lungs(shape))
    return replace(
        result,
        findings=tuple(
            replace(each, measurements=tuple(replace(one, value=one.value + more) for one in each.measurements))
            for each in result.findings
        ),
    )
