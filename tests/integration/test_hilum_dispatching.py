"""What is owed to whom: settled by what is known, and for jobs of earlier versions by what peers are sent now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from db.delivery import acceptance, outbox
from db.engine import Database
from db.images.index import add_instances, generation
from db.overview.queries import retry_study, study_record
from db.work import jobs
from db.work.revisions import close_study
from hilum.config import Settings
from hilum.dispatching import deviations, notices_of, outgoing, settled, wishes_of
from hilum.entries import ModelSettings, PeerSettings
from hilum.planning import KEPT_HERE
from study.entities import Job, PlannedJob, ResultObject
from study.forms import SOP_CLASSES, Acceptance, Form, Parcel, Variant, Wish
from study.states import DeliveryState, JobState, StudyState
from tests.support.databases import STUDY, migrated, planned, results, stored

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


SHADOW = SETTINGS.model_copy(
    update={"models": {"lung_ct": ModelSettings(name="lung_ct", bundle="builtin:lung_ct", deliver=False)}}
)


@pytest.mark.parametrize("parameters", [{}, {"wishes": [PEER.wish().to_json()]}])
def test_of_a_model_in_the_shadow_nothing_is_sent_whatever_was_planned(parameters: dict[str, Any]) -> None:
    planned_before = job(**parameters)
    assert wishes_of(planned_before, SHADOW) == (KEPT_HERE,)
    assert notices_of(planned_before, SHADOW) == {}
    of_another = replace(planned_before, model_name="other")
    assert wishes_of(of_another, SHADOW) == (PEER.wish(),)


def test_what_a_model_found_in_the_shadow_is_kept_and_is_not_sent_later(database: Database) -> None:
    """Planned before, finished after the site wrote `deliver = false`; then it takes that back, and asks to retry."""
    plan = [replace(planned([stored(1)]), parameters=PLANNED.parameters)]
    close(database, plan)
    kept = finish_next(database, SHADOW)
    for _ in range(2):
        with database.writing() as uow:
            assert retry_study(uow, STUDY) == (0, 0)
            uow.commit()
        close(database, [])
        close(database, plan)  # the same job is the current one again
    with database.reading() as uow:
        record = study_record(uow, STUDY)
        assert not outbox.is_delivery_waiting(uow, "pacs")
    assert record is not None
    assert record.summary.state is StudyState.DELIVERED
    assert [result.sop_instance_uid for _, result in record.results] == [each.sop_instance_uid for each in kept]
    assert record.deliveries == ()


def test_what_was_owed_of_a_model_before_it_went_into_the_shadow_stays_here_until_somebody_asks(
    database: Database,
) -> None:
    plan = replace(planned([stored(1)]), parameters=PLANNED.parameters)
    close(database, [plan, replace(plan, model_name="other")])
    for _ in range(2):
        finish_next(database, SETTINGS)
    with database.writing() as uow:
        assert outbox.withhold(uow, ["lung_ct"]) == 2
        assert outbox.withhold(uow, ["lung_ct"]) == 0
        due = outbox.lease_deliveries(uow, "pacs", "sender", 30, 32)
        assert {jobs.job_by_id(uow, each.job_id).model_name for each in due} == {"other"}
        for each in due:
            outbox.delivered(uow, each.id, "sender", 0)
        uow.commit()
    # Neither what the configuration says by now nor a retry in the shadow lets anything go
    with database.writing() as uow:
        assert retry_study(uow, STUDY, ["lung_ct"]) == (0, 0)
        assert not outbox.is_delivery_waiting(uow, "pacs")
        uow.commit()
    with database.reading() as uow:
        record = study_record(uow, STUDY)
    assert record is not None
    assert record.summary.state is StudyState.DELIVERED
    assert record.summary.reason is not None
    assert record.summary.reason.words == "The results of lung_ct are kept here, and sent to nobody."
    assert {each.state for each in record.deliveries if each.reason} == {DeliveryState.WITHHELD}
    assert [event.kind for event in record.events].count("delivery_withheld") == 1
    with database.writing() as uow:
        assert retry_study(uow, STUDY) == (0, 2)
        assert len(outbox.lease_deliveries(uow, "pacs", "sender", 30, 32)) == 2
        uow.commit()


def close(database: Database, plan: Sequence[PlannedJob]) -> None:
    with database.writing() as uow:
        add_instances(uow, [stored(1)])
        close_study(uow, STUDY, plan, "nothing", generation(uow, STUDY))
        uow.commit()


def finish_next(database: Database, settings: Settings) -> list[ResultObject]:
    """End the job that waits as a keeper does, with all that it was to make."""
    with database.writing() as uow:
        leased = jobs.lease_job(uow, "keeper", 30)
        uow.commit()
    assert leased is not None
    (parcel,) = settled(database, settings, leased)
    found = made(parcel)
    owed = list(outgoing(parcel, found)) if parcel.peer else []
    with database.writing() as uow:
        jobs.finish_job(uow, leased.id, leased.attempt, found, owed, {})
        uow.commit()
    return found
