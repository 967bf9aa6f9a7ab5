"""How images that Key Objects rejected are shown, and what a person says of them."""

from __future__ import annotations

from typing import Any

from hilum.moments import local, moment
from study.rejections import ImageRejection, RejectionTitle


def rejection_words(rejection: ImageRejection) -> str:
    """Return what a Key Object rejected of a study, why and when, and what follows."""
    came = f"{rejection.title.words}, {rejection.key_object}, on {local(rejection.received_at)[:19]}"
    if rejection.title is RejectionTitle.UNREAD:
        return f"{came}: it may reject images, and is not heeded"
    named = f"{came}: {len(rejection.sop_instance_uids)} object(s)"
    if rejection.lifted_at:
        return f"{named}, analysed all the same by a person's wish of {local(rejection.lifted_at)[:19]}"
    return f"{named}, which no model reads" if rejection.excluded else f"{named}; they may be deleted, and count here"


def rejection_json(rejection: ImageRejection) -> dict[str, Any]:
    """Return one entry of `rejections` of ``hilum show --json``."""
    return {
        "key_object": rejection.key_object,
        "title": rejection.title.value or None,
        "meaning": rejection.title.words,
        "received_at": moment(rejection.received_at),
        "excluded": rejection.excluded,
        "lifted_at": moment(rejection.lifted_at),
        "sop_instance_uids": list(rejection.sop_instance_uids),
    }
