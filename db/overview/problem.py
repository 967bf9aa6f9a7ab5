"""What a problem is: something that needs a person."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from study.errors import Reason


class Kind(StrEnum):
    """What a problem is about; the subject is a study but where another is named. The gravest come first."""

    DISK = "disk"  # has less free than its reserve; the subject is the data directory
    STORE = "store"  # holds more than retention lets it, and nothing may go; the subject is the data directory
    INBOX = "inbox"  # received files are not indexed; the subject is "inbox"
    ANALYSIS = "analysis"
    ALARM = "alarm"  # an image came again with other pixels, and nobody decided yet
    PART = "part"  # images of a study that retention had removed came, and for long not all of them
    OUTDATED = "outdated"  # results of images that were rejected since
    UNREAD = "unread"  # a Key Object that may reject images of the study, and could not be read
    DELIVERY = "delivery"  # of a study, to a peer
    REJECTION = "rejection"  # of withdrawn results, that a peer does not take or heed
    REPORT = "report"  # of a refusal, that could not be written
    OPEN = "open"  # receives no more, and is not closed
    STUCK = "stuck"  # an analysis whose worker is gone, or that is interrupted again and again
    QUEUE = "queue"  # nobody takes what is due; the subject is "analyses", "reports" or "deliveries"
    PEER = "peer"  # not reached; the subject is its name
    FILE = "file"  # received and not understood; the subject is its path in the data directory
    PAUSE = "pause"  # the subject is what is paused


@dataclass(frozen=True)
class Problem:
    """Something that needs a person: what it is about, since when, and why; `peer` and `job` where it is of one."""

    kind: Kind
    subject: str
    since: datetime
    reason: Reason
    peer: str = ""
    job: int | None = None
