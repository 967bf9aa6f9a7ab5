"""What a result must be told from outside: the keys of its UIDs, its times, its place among the series, its words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from pydicom.dataset import Dataset

from sr_writer.codes import LONGEST, long_string
from sr_writer.source.carrying import element_bytes, tag_of
from sr_writer.version import WRITER_VERSION
from study.codes import ARTIFICIAL_INTELLIGENCE, Code
from study.imaging import ModelIdentity
from study.uids import derive_uid

SEG_SERIES = 9000
SR_SERIES = 9500
"""Series Number of the first model's SEG and SR: high, so that results stand after the images, and always the same."""

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
        The model's place among the site's models, 0 and up: SEG is series 9000 + position, SR 9500 + position.
    algorithm_family
        CID 7162.
    allow_empty_patient_id
        Whether the site accepts results for images without Patient ID.
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

    def __post_init__(self) -> None:
        if self.created_at.tzinfo is None:
            raise ValueError("created_at must be aware of its time zone")

    def uid(self, model: ModelIdentity, role: str, form: str) -> str:
        """Return the UID of one thing in one form of the result ("instance" of "seg"), always the same."""
        return derive_uid(
            self.instances_digest, model.digest, model.device_uid, self.parameters_digest, WRITER_VERSION, role, form
        )

    def tracking_uid(self, model: ModelIdentity, key: str) -> str:
        """Return the Tracking UID of a region, equal in all forms of the result."""
        return self.uid(model, f"tracking:{key}", "any")

    def series_description(self, model: ModelIdentity, what: str) -> str:
        """Return a Series Description: what it is, and what it is not for.

        A long description is cut, so that the disclaimer stands there whole (64 characters are allowed, VR LO).
        """
        rest = f" {what}{self.disclaimer}"
        description, room = self.description or model.name, LONGEST - len(rest)
        if len(description) > room:
            description = description[: room - len(_CUT)].rstrip() + _CUT
        return long_string(description + rest)

    def local_time(self, source: Dataset) -> datetime:
        """Return when the result was made, in the zone that the dates and times of the source are in.

        Dates and times of one object share one zone (PS3.3 C.12.1.1.8), and the study's are the source's.
        """
        return self.created_at.astimezone(_declared_zone(source) or self.time_zone)


def _declared_zone(source: Dataset) -> tzinfo | None:
    declared = element_bytes(source, tag_of("TimezoneOffsetFromUTC")).decode("ascii", "replace").strip(" \0")
    found = _OFFSET.fullmatch(declared)
    if found is None:
        return None
    sign, hours, minutes = found.groups()
    if int(hours) > 14 or int(minutes) > 59:
        return None
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(-offset if sign == "-" else offset)
