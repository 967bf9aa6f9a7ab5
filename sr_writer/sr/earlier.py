"""Which earlier series a result was compared with, and why others were not, as a report says it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from highdicom.sr import ContentItem, ContentSequence
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.sr.changes import context_of
from sr_writer.sr.stating import comment, inferred_from
from sr_writer.sr.tree import text
from sr_writer.texts import spelled_out
from study.errors import EncodingError
from study.imaging import EarlierSeries, ResultSet
from study.priors import day_of, day_words
from study.words import quoted

Headers = Sequence[Dataset]


@dataclass(frozen=True, eq=False)
class Earlier:
    """Earlier series, each with the headers of its images in slice order."""

    series: tuple[EarlierSeries, ...] = ()
    headers: tuple[Headers, ...] = ()
    not_compared: tuple[str, ...] = ()

    @classmethod
    def of(cls, result_set: ResultSet, headers: Sequence[Headers]) -> Earlier:
        """Return what a result says of earlier series.

        Raises
        ------
        EncodingError
            If there are not headers of each of them.
        """
        if len(headers) != len(result_set.earlier) or not all(headers):
            raise EncodingError("The images of an earlier series that is compared with are not at hand.")
        return cls(result_set.earlier, tuple(headers), result_set.not_compared)

    @property
    def images(self) -> list[Dataset]:
        """Return the headers of all of them."""
        return [header for headers in self.headers for header in headers]

    def sentences(self) -> Iterator[str]:
        """Yield which series each is, in a sentence."""
        for series, headers in zip(self.series, self.headers, strict=True):
            yield _sentence(series, len({str(each.SOPInstanceUID) for each in headers}))

    def items(self) -> Iterator[ContentItem]:
        """Yield each series in words, its study and an image of it below; then what is not compared, and why."""
        for series, headers, sentence in zip(self.series, self.headers, self.sentences(), strict=True):
            item = text(codes.COMPARED_WITH, sentence)
            context = context_of(series.study_instance_uid, _day(series))
            item.ContentSequence = ContentSequence([*context, inferred_from(headers[len(headers) // 2])])
            yield item
        for words in self.not_compared:
            yield comment(spelled_out(words))


NOTHING_EARLIER: Final = Earlier()
"""What a report says of earlier series where nothing was to be compared."""


def _sentence(series: EarlierSeries, images: int) -> str:
    number = "" if series.series_number is None else f" {series.series_number}"
    description = f' "{quoted(series.series_description)}"' if series.series_description else ""
    modality = f" ({quoted(series.modality)})" if series.modality else ""
    several = "s" if images != 1 else ""
    day = day_words(series.study_date)
    return spelled_out(f"Study of {day}, series{number}{modality}{description}, {images} image{several}.")


def _day(series: EarlierSeries) -> date:
    day = day_of(series.study_date)
    if day is None:
        raise EncodingError("An earlier study that is compared with has no date.")
    return day


def evidence_of(images: Sequence[Dataset]) -> list[Dataset]:
    """Return the items of a sequence of evidence that list images: by study, by series, each once (PS3.3 C.17.2.1)."""
    studies: dict[str, dict[str, dict[str, str]]] = {}
    for image in images:
        study = studies.setdefault(str(image.StudyInstanceUID), {})
        study.setdefault(str(image.SeriesInstanceUID), {})[str(image.SOPInstanceUID)] = str(image.SOPClassUID)
    items = []
    for study_uid, of_study in studies.items():
        item = Dataset()
        item.ReferencedSeriesSequence = [_series_item(uid, instances) for uid, instances in of_study.items()]
        item.StudyInstanceUID = study_uid
        items.append(item)
    return items


def _series_item(series_uid: str, instances: dict[str, str]) -> Dataset:
    item = Dataset()
    references = []
    for uid, sop_class in instances.items():
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, uid
        references.append(reference)
    item.ReferencedSOPSequence = references
    item.SeriesInstanceUID = series_uid
    return item
