"""What is owed to whom: settled by what is known, and for jobs of earlier versions by what peers are sent now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from db import acceptance
from db.engine import Database
from hilum.config import PeerSettings, Settings
from hilum.dispatching import deviations, notices_of, outgoing, settled, wishes_of
from study.entities import Job, ResultObject
from study.forms import SOP_CLASSES, Acceptance, Form, Parcel, Variant, Wish
from study.states import JobState
from tests.support.databases import migrated, results

PEER = PeerSettings(
    name="pacs", ae_title="PACS", host="h", port=104, results=(Form.SEG_LABELMAP, Form.SR, Form.REFUSAL)
)
SETTINGS = Settings(peers={"pacs": PEER})
LABELMAP = SOP_CLASSES[Form.SEG_LABELMAP]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with migrated("sqlite", tmp_path) as database:
        yield database


def job(**parameters: object) -> Job:
    return Job(
        *(1, "1.2", 1, "lung_ct", "m", "1.2.3", "i", parameters, "p", 60.0, JobState.QUEUED, True, 1, 0, 0),
        created_at=datetime.now(UTC),
    )


PLANNED = job(wishes=[PEER.wish().to_json()])


def learn(database: Database, address: str, state: Acceptance) -> None:
    with database.writing() as uow:
        acceptance.learn(uow, "pacs", address, {LABELMAP: state})
        uow.commit()


def made(parcel: Parcel) -> list[ResultObject]:
    """Return one object for each variant of a parcel, what stands by last."""
    variants = dict.fromkeys((*parcel.variants, *parcel.stand_by))
    return [
        replace(result, variant=variant.key)
        for variant, result in zip(variants, results(forms=[each.form for each in variants]), strict=True)
    ]


def test_a_job_of_before_is_sent_as_peers_are_sent_by_now(database: Database) -> None:
    """An upgrade finds jobs in the queue that do not say what is to be made of them: nothing of them may be lost."""
    old = job(forms=["seg", "sr"])
    assert wishes_of(old, SETTINGS) == (PEER.wish(),)
    assert wishes_of(old, Settings()) == (Wish("", (Form.SEG, Form.SR)),)
    assert settled(database, SETTINGS, old) == settled(database, SETTINGS, PLANNED)


def test_what_is_known_holds_at_the_address_where_it_was_learnt(database: Database) -> None:
    learn(database, PEER.address, Acceptance.REFUSED)
    (parcel,) = settled(database, SETTINGS, PLANNED)
    assert [variant.form for variant in parcel.variants] == [Form.SEG, Form.SR]
    assert deviations([parcel], made(parcel))["replaced"] == [{"peer": "pacs", "form": "seg_labelmap", "by": "seg"}]
    moved = Settings(peers={"pacs": PEER.model_copy(update={"host": "elsewhere"})})
    (parcel,) = settled(database, moved, PLANNED)
    assert parcel.stand_by
    assert deviations([parcel], made(parcel)) == {}


def test_what_is_made_stands_in_the_outbox_in_the_order_of_sending(database: Database) -> None:
    (parcel,) = settled(database, SETTINGS, PLANNED)
    first, report, instead = made(parcel)
    # A second object of the same variant, as a Segmentation that is cut in two
    second = replace(first, sop_instance_uid="1.2.99")
    owed = list(outgoing(parcel, [instead, report, first, second]))
    assert [(each.position, each.result.form, each.stand_by, each.doubted) for each in owed] == [
        (0, "seg_labelmap", False, True),
        (1, "seg_labelmap", False, True),
        (2, "sr", False, False),
        (3, "seg", True, False),
    ]


def test_refusals_go_to_whoever_wants_them() -> None:
    assert notices_of(PLANNED, SETTINGS) == {"pacs": Variant(Form.REFUSAL)}
    assert notices_of(job(wishes=[Wish("", (Form.SEG,)).to_json()]), SETTINGS) == {}


def test_a_form_in_which_a_result_has_nothing_to_show_is_on_record(database: Database) -> None:
    classification = job(wishes=[Wish("pacs", (Form.RTSTRUCT, Form.SR)).to_json()])
    (parcel,) = settled(database, SETTINGS, classification)
    report = made(parcel)[1:]
    assert deviations([parcel], report) == {"nothing_to_show": [{"peer": "pacs", "form": "rtstruct"}]}


def test_a_peer_that_is_configured_no_more_is_sent_nothing(database: Database) -> None:
    assert wishes_of(PLANNED, Settings()) == (Wish("", (Form.SEG, Form.SR)),)
    assert notices_of(PLANNED, Settings()) == {}
