"""What a result must be told from outside: the keys of its UIDs, its times, its place among the series, its words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final

from pydicom.dataset import Dataset

from sr_writer.source.carrying import plain_text
from sr_writer.texts import LONGEST, long_string, with_end
from sr_writer.version import WRITER_VERSION
from study.codes import ARTIFICIAL_INTELLIGENCE, Code
from study.entities import Predecessor
from study.forms import Form, Variant
from study.imaging import ModelIdentity
from study.uids import derive_uid

SERIES_NUMBERS: Final[Mapping[Form, int]] = {
    Form.SEG: 9000,
    Form.SEG_LABELMAP: 9100,
    Form.RTSTRUCT: 9200,
    Form.SC: 9300,
    Form.PDF: 9400,
    Form.SR: 9500,
    Form.SR_SEGMENTS: 9600,
    Form.SR_COMPREHENSIVE: 9700,
    Form.REFUSAL: 9800,
    Form.REJECTION: 9900,
}
"""Series Number of the first model's results: high, so that they stand after the images, and always the same.

The next models' follow, one each, half-way to the next form's: the other half is for reports of words.
"""
_WORDS_AFTER: Final = 50
"""What is added for a report of words beside another report, and so how many models one block of numbers has."""
_NEXT_BLOCK: Final = 1000
"""What is added for each further block of models."""

_CUT = "..."
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")


@dataclass(frozen=True)
class ResultContext:
    """What `write_results` must know besides the results themselves.

    Parameters
    ----------
    instances_digest, parameters_digest
        Of the job; with the model's digest and device they are what result UIDs derive from.
    created_at
        When the job was made, aware of its zone. Never read from the clock here: the same job gives the same bytes.
    time_zone
        Zone of the dates and times in results where the source declares no offset of its own.
    description
        What the analysis is, for Series Descriptions ("Lung CT"); the model's name where empty.
    disclaimer
        Ends every Series Description.
    position
        The model's place among the site's models, 0 and up: it is part of each Series Number.
    algorithm_family
        CID 7162.
    allow_empty_patient_id
        Whether the site accepts results for images without Patient ID.
    predecessors
        Reports in the same study that those of this result take the place of.
    """

    instances_digest: str
    parameters_digest: str
    created_at: datetime
    time_zone: tzinfo = UTC
    description: str = ""
    disclaimer: str = " - not for diagnostic use"
    position: int = 0
    algorithm_family: Code = ARTIFICIAL_INTELLIGENCE
    allow_empty_patient_id: bool = False
    predecessors: tuple[Predecessor, ...] = ()

    def __post_init__(self) -> None:
        if self.created_at.tzinfo is None:
            raise ValueError("created_at must be aware of its time zone")

    def uid(self, model: ModelIdentity, role: str, variant: Variant) -> str:
        """Return the UID of one thing in one variant of the result (its "instance", its "series"), always the same."""
        return self._uid(model, role, variant.key)

    def tracking_uid(self, model: ModelIdentity, key: str) -> str:
        """Return the Tracking UID of a region, equal in all forms of the result."""
        return self._uid(model, f"tracking:{key}", "any")

    def _uid(self, model: ModelIdentity, role: str, key: str) -> str:
        return derive_uid(
            self.instances_digest, model.digest, model.device_uid, self.parameters_digest, WRITER_VERSION, role, key
        )

    def series_number(self, form: Form, *, of_words: bool = False) -> int:
        """Return the Series Number of a form of the result, that of no other form of any model of the site.

        Parameters
        ----------
        of_words
            Whether it is the report of words beside another report of that form.
        """
        block, place = divmod(self.position, _WORDS_AFTER)
        return SERIES_NUMBERS[form] + block * _NEXT_BLOCK + place + (_WORDS_AFTER if of_words else 0)

    def series_description(self, model: ModelIdentity, what: str, variant: Variant) -> str:
        """Return a Series Description: the destination's prefix, what it is, and what it is not for.

        A long description is cut, so that the disclaimer stands there whole (64 characters are allowed, VR LO).
        """
        rest = f" {what}{self.disclaimer}"
        description = variant.description_prefix + (self.description or model.name)
        whole = description + rest
        return long_string(whole if len(whole) <= LONGEST else with_end(description, _CUT + rest))

    def local_time(self, source: Dataset) -> datetime:
        """Return when the result was made, in the zone that the dates and times of the source are in.

        Dates and times of one object share one zone (PS3.3 C.12.1.1.8), and the study's are the source's.
        """
        return self.created_at.astimezone(_declared_zone(source) or self.time_zone)


def _declared_zone(source: Dataset) -> tzinfo | None:
    declared = plain_text(source, "TimezoneOffsetFromUTC")
    found = _OFFSET.fullmatch(declared)
    if found is None:
        return None
    sign, hours, minutes = found.groups()
    if int(hours) > 14 or int(minutes) > 59:
        return None
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(-offset if sign == "-" else offset)
