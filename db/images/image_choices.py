"""What a manifest says of which versions of images count, and which rejections a person lifted; and saying it again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from db.engine import UnitOfWork
from db.images import versions
from db.tables import RejectedImageRow, RejectionNoteRow


def said(uow: UnitOfWork, study_instance_uid: str) -> dict[str, Any]:
    """Return what was decided of a study's images and can not be told from them, as JSON can hold it."""
    groups = versions.of_study(uow, study_instance_uid).items()
    chosen = [(uid, each) for uid, group in groups if any(each.discounted for each in group) for each in group]
    return {
        "counting": [[uid, each.instance.digest] for uid, each in chosen if each.current],
        "discounted": [[uid, each.instance.digest] for uid, each in chosen if each.discounted],
        "lifted": _lifted(uow, study_instance_uid),
    }


def repeat(uow: UnitOfWork, study_instance_uid: str, told: Mapping[str, Any]) -> None:
    """Let versions count, and rejections be lifted, as `said` told; a version that came since counts all the same.

    Raises
    ------
    ArchiveError
        If the index knows no such study.
    """
    groups = versions.of_study(uow, study_instance_uid)
    discounted = {tuple(key) for key in told.get("discounted", ())}
    for uid, digest in told.get("counting", ()):
        several = groups.get(uid, [])
        wrong = [each for each in several if (uid, each.instance.digest) in discounted]
        overtaken = any(each.current for each in wrong)
        chosen = [each.id for each in several if overtaken and each.instance.digest == digest]
        versions.choose(uow, study_instance_uid, chosen, [each.id for each in wrong])
    for key_object, uid, at in told.get("lifted", ()):
        notes = select(RejectionNoteRow.id).where(RejectionNoteRow.sop_instance_uid == key_object)
        lifted = update(RejectedImageRow).where(
            RejectedImageRow.note.in_(notes),
            RejectedImageRow.study_instance_uid == study_instance_uid,
            RejectedImageRow.sop_instance_uid == uid,
        )
        uow.execute(lifted.values(excluded=False, lifted_at=datetime.fromisoformat(at)))


def _lifted(uow: UnitOfWork, study_instance_uid: str) -> list[list[str]]:
    query = (
        select(RejectionNoteRow.sop_instance_uid, RejectedImageRow.sop_instance_uid, RejectedImageRow.lifted_at)
        .join(RejectionNoteRow, RejectionNoteRow.id == RejectedImageRow.note)
        .where(RejectedImageRow.study_instance_uid == study_instance_uid, RejectedImageRow.lifted_at.is_not(None))
    )
    return [[key_object, uid, at.isoformat()] for key_object, uid, at in uow.execute(query)]
