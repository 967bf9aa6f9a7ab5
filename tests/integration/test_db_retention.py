"""Retention in the database: what may go and what is spared, what is kept of it, and what comes again."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, update

from db.complete import priors
from db.delivery import vouching
from db.delivery.outbox import Outgoing
from db.engine import Database, UnitOfWork
from db.images import index
from db.images.index import add_instances, generation
from db.lasting import dispensable, removals, retention
from db.lasting.dispensable import Ground, Limits
from db.overview.queries import list_studies, retry_study
from db.tables import (
    DeliveryRow,
    InstanceRow,
    JobRow,
    NoticeRow,
    PatientRow,
    ResultRow,
    RevisionRow,
    StudyRow,
)
from db.work import jobs
from db.work.results import predecessors_of
from db.work.revisions import close_study
from study.commitment import CommitmentRequest, Reference
from study.entities import StoredInstance, StudyRecord
from study.errors import Reason
from study.identity import PIXELS_CHANGED
from study.states import DeliveryState, JobState, StudyState
from tests.support.databases import DIALECTS, SERIES, STUDY, migrated, planned, query_plans, results, stored
from tests.support.network import wait_until
from tests.support.outbox import deliver, lease, record, report

OLD, OTHER, NEW = "1.2.1", "1.2.2", "1.2.3"
ALL = Limits(days=0.0)


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


def write(database: Database, action: Callable[[UnitOfWork], object]) -> None:
    with database.writing() as uow:
        action(uow)
        uow.commit()


def done(database: Database, study: str = STUDY) -> None:
    """Bring a study to its end: analysed, and delivered."""
    report(database, study)
    for delivery in lease(database):
        deliver(database, delivery)


def whose(study: str, patient: str, days_ago: float = 0) -> Callable[[UnitOfWork], object]:
    """Give a study a patient of its own, and an age."""

    def change(uow: UnitOfWork) -> None:
        identity = {"identity_digest": patient, "patient_id": patient, "issuer_of_patient_id": ""}
        identity |= {"patient_name": "", "patient_birth_date": "", "patient_sex": ""}
        key = uow.execute(insert(PatientRow).values(identity).returning(PatientRow.id)).scalar_one()
        at = uow.now() - timedelta(days=days_ago)
        of_study = update(StudyRow).where(StudyRow.study_instance_uid == study)
        uow.execute(of_study.values(patient=key, last_received_at=at))

    return change


def due(database: Database, limits: Limits = ALL, most: int = 100) -> list[str]:
    with database.reading() as uow:
        return [each.study_instance_uid for each in dispensable.due(uow, limits, most)]


def ground(database: Database, study: str = STUDY, limits: Limits = ALL) -> Ground | None:
    """Return what spares the study, as the list and the lock tell it, which must be the same."""
    with database.writing() as uow:
        (told,) = [each for each in dispensable.kept_studies(uow, limits) if each.study_instance_uid == study]
        assert retention.hold(uow, study, limits) is told.ground
    assert (study in due(database, limits)) is (told.ground is None)
    return told.ground


def remove(database: Database, study: str = STUDY) -> dict[str, Any]:
    with database.writing() as uow:
        assert retention.hold(uow, study, ALL) is None
        removed = retention.removed_record(uow, study)
        retention.remove(uow, study, removed)
        uow.commit()
    found: dict[str, Any] = json.loads(json.dumps(removed))
    return found


def close(database: Database, images: Sequence[StoredInstance], study: str = STUDY) -> None:
    write(database, lambda uow: close_study(uow, study, [planned(images)], "", generation(uow, study)))


def test_a_delivered_study_goes_and_what_was_found_in_it_stays(database: Database) -> None:
    done(database)
    assert ground(database) is None
    before = record(database)
    remove(database)
    after = record(database)
    assert after.summary.state is before.summary.state is StudyState.DELIVERED
    assert (after.summary.instances, after.summary.removal.instances) == (0, 1)  # type: ignore[union-attr]
    assert (after.results, after.deliveries) == (before.results, before.deliveries)
    assert [job.instances_digest for job in after.jobs] == [job.instances_digest for job in before.jobs]
    assert after.events[-1].kind == "removed"
    assert "1 image(s) and 2 result object(s)" in after.events[-1].words
    with database.reading() as uow:
        assert uow.execute(select(func.count()).select_from(InstanceRow)).scalar_one() == 0
        assert dispensable.used_bytes(uow) == 0
        assert dispensable.kept_studies(uow, ALL) == []
    assert due(database) == []


def test_what_is_not_done_with_is_spared(database: Database) -> None:
    def all_deliveries(study: str, **values: object) -> Callable[[UnitOfWork], object]:
        key = select(StudyRow.id).where(StudyRow.study_instance_uid == study).scalar_subquery()
        return lambda uow: uow.execute(update(DeliveryRow).where(DeliveryRow.study == key).values(values))

    def all_jobs(study: str, **values: object) -> Callable[[UnitOfWork], object]:
        key = select(StudyRow.id).where(StudyRow.study_instance_uid == study).scalar_subquery()
        return lambda uow: uow.execute(update(JobRow).where(JobRow.study == key).values(values))

    def study_row(study: str, **values: object) -> Callable[[UnitOfWork], object]:
        return lambda uow: uow.execute(update(StudyRow).where(StudyRow.study_instance_uid == study).values(values))

    def notice(study: str, *, given_up: bool) -> Callable[[UnitOfWork], object]:
        def enter(uow: UnitOfWork) -> None:
            job = uow.execute(
                select(JobRow.id, JobRow.study)
                .join(StudyRow, StudyRow.id == JobRow.study)
                .where(StudyRow.study_instance_uid == study)
            ).one()
            values = {"study": job.study, "job": job.id, "attempts": 1, "not_before": uow.now()}
            uow.execute(insert(NoticeRow).values(values | {"given_up": given_up}))

        return enter

    def rejection(study: str) -> Callable[[UnitOfWork], object]:
        return all_deliveries(study, state=DeliveryState.STANDBY.value, position=1_000_000)

    def of(number: int) -> str:
        return f"1.2.{number}"

    alarm = {"code": PIXELS_CHANGED, "words": "", "numbers": {}}
    later, past = datetime(2100, 1, 1).astimezone(), datetime(2020, 1, 1).astimezone()
    kept_aside = DeliveryState.KEPT_ASIDE.value
    cases: list[tuple[Ground | None, Sequence[Callable[[UnitOfWork], object]]]] = [
        (None, []),
        (Ground.OPEN, [study_row(of(1), receiving=True)]),
        (Ground.OPEN, [study_row(of(2), evaluation_due=True)]),
        (Ground.AT_WORK, [all_jobs(of(3), state="QUEUED", current=False)]),
        (Ground.AT_WORK, [all_jobs(of(4), state="RUNNING")]),
        (Ground.OWED, [all_deliveries(of(5), state="PENDING")]),
        (Ground.OWED, [all_deliveries(of(6), state="STORED")]),
        (Ground.OWED, [all_deliveries(of(7), lease_owner="withdraw")]),
        (Ground.OWED, [rejection(of(8))]),
        (Ground.REPORT, [notice(of(9), given_up=False)]),
        (Ground.REPORT, [notice(of(10), given_up=True)]),
        (None, [notice(of(11), given_up=True), study_row(of(11), discarded_at=later)]),
        (Ground.ALARM, [all_jobs(of(12), state="REFUSED", reason=alarm)]),
        (None, [all_jobs(of(13), state="REFUSED", reason=alarm | {"code": "MissingSlices"})]),
        (Ground.FAILED, [all_jobs(of(14), state="FAILED")]),
        (Ground.FAILED, [all_jobs(of(15), state="FAILED"), study_row(of(15), discarded_at=past)]),
        (None, [all_jobs(of(16), state="FAILED"), study_row(of(16), discarded_at=later)]),
        (None, [all_jobs(of(17), state="FAILED", current=False)]),
        (Ground.FAILED, [all_deliveries(of(18), state=kept_aside, problem=True)]),
        (Ground.FAILED, [all_deliveries(of(19), state=kept_aside)]),
        (None, [all_deliveries(of(20), state=kept_aside, problem=True), study_row(of(20), discarded_at=later)]),
        (None, [all_deliveries(of(21), state=kept_aside), all_jobs(of(21), current=False)]),
        (None, [all_deliveries(of(22), state="WITHHELD")]),
    ]
    with database.writing() as uow:
        for number in range(len(cases)):
            _done_at_once(uow, of(number))
            whose(of(number), f"P{number}")(uow)
        for _, changes in cases:
            for change in changes:
                change(uow)
        uow.commit()
    expected = {of(number): what for number, (what, _) in enumerate(cases)}
    with database.writing() as uow:
        listed = {each.study_instance_uid: each.ground for each in dispensable.kept_studies(uow, ALL)}
        assert listed == expected
        assert {study: retention.hold(uow, study, ALL) for study in expected} == expected
    assert set(due(database)) == {study for study, what in expected.items() if what is None}


def _done_at_once(uow: UnitOfWork, study: str) -> None:
    """Bring a study to its end within one transaction."""
    image, made = stored(1, study=study), results(study)
    add_instances(uow, [image])
    close_study(uow, study, [planned([image])], "", generation(uow, study))
    job = jobs.lease_job(uow, "keeper", 30)
    assert job is not None
    assert job.study_instance_uid == study
    jobs.finish_job(uow, job.id, job.attempt, made, [Outgoing("pacs", n, each) for n, each in enumerate(made)], {})
    uow.execute(update(DeliveryRow).where(DeliveryRow.job == job.id).values(state=DeliveryState.DELIVERED.value))


def test_what_another_node_counts_on_is_spared_for_as_long_as_the_site_says(database: Database) -> None:
    done(database)
    uid = stored(1).header.sop_instance_uid
    asked = CommitmentRequest("1.2.3.4", (Reference("1.2.840.10008.5.1.4.1.1.2", uid),))
    write(database, lambda uow: vouching.enter(uow, "message", "ct", asked, uow.now()))
    assert ground(database) is Ground.ASKED

    def answer(uow: UnitOfWork) -> None:
        vouch = vouching.take(uow, "ct", 60)
        assert vouch is not None
        vouching.exempt(uow, [held.key for held in vouching.versions(uow, [uid])[uid]])
        vouching.end(uow, vouch.id)

    write(database, answer)
    assert ground(database) is Ground.VOUCHED
    assert ground(database, limits=Limits(days=0.0, vouched_days=1.0)) is Ground.VOUCHED
    write(database, lambda uow: uow.execute(update(InstanceRow).values(vouched_at=uow.now() - timedelta(days=2))))
    assert ground(database, limits=Limits(days=0.0, vouched_days=1.0)) is None


def test_who_commits_us_to_an_image_just_now_is_waited_for(tmp_path: Path) -> None:
    with migrated("postgresql", tmp_path) as database:
        done(database)
        told: list[Ground | None] = []

        def look() -> None:
            with database.writing() as uow:
                told.append(retention.hold(uow, STUDY, ALL))

        with database.writing() as uow:
            (held,) = vouching.versions(uow, [stored(1).header.sop_instance_uid]).values()
            assert vouching.exempt(uow, [each.key for each in held])
            looking = threading.Thread(target=look)
            looking.start()
            wait_until(lambda: is_waiting(database), 20, "a wait for the lock")
            uow.commit()
        looking.join(20)
        assert told == [Ground.VOUCHED]


def is_waiting(database: Database) -> bool:
    with database.reading() as uow:
        return bool(uow.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one())


def test_what_an_open_study_may_be_compared_with_is_spared(database: Database) -> None:
    done(database, OLD)
    write(database, lambda uow: add_instances(uow, [stored(1, study=NEW)]))  # of the same patient
    assert ground(database, OLD) is Ground.PRIOR
    close(database, [stored(1, study=NEW)], NEW)
    assert ground(database, OLD) is Ground.PRIOR  # its job waits
    write(database, whose(NEW, "ANOTHER"))
    assert ground(database, OLD) is None
    write(database, lambda uow: priors.enter_priors(uow, _job_of(uow, NEW), [[_key(stored(1, study=OLD))]]))
    assert ground(database, OLD) is Ground.PRIOR  # it reads the study, whoever's it is said to be
    write(database, lambda uow: uow.execute(update(JobRow).values(state=JobState.DONE.value)))
    assert ground(database, OLD) is None
    remove(database, OLD)
    with database.reading() as uow:
        assert priors.priors_of_job(uow, _job_of(uow, NEW)) == []
        assert uow.execute(select(JobRow.inputs_removed).where(JobRow.id == _job_of(uow, NEW))).scalar_one()


def _job_of(uow: UnitOfWork, study: str) -> int:
    query = select(JobRow.id).join(StudyRow, StudyRow.id == JobRow.study).where(StudyRow.study_instance_uid == study)
    key: int = uow.execute(query).scalar_one()
    return key


def _key(instance: StoredInstance) -> tuple[str, str]:
    return instance.header.sop_instance_uid, instance.digest


def test_the_oldest_go_until_both_limits_hold(database: Database) -> None:
    for study, patient, days in ((NEW, "C", 1), (OLD, "A", 30), (OTHER, "B", 10)):
        done(database, study)
        write(database, whose(study, patient, days))
    with database.reading() as uow:
        used = dispensable.used_bytes(uow)
    assert used == 3 * (1000 + 20)
    assert due(database, Limits()) == []
    assert due(database, Limits(days=31)) == []
    assert due(database, Limits(days=9)) == [OLD, OTHER]
    assert due(database, Limits(days=9), most=1) == [OLD]
    assert due(database, Limits(most_bytes=used)) == []
    assert due(database, Limits(most_bytes=used - 1)) == [OLD]
    assert due(database, Limits(days=29, most_bytes=used - 1021)) == [OLD, OTHER]
    write(database, lambda uow: uow.execute(update(InstanceRow).values(vouched_at=uow.now())))
    assert due(database, Limits(days=9, most_bytes=0)) == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_every_version_counts_and_none_twice(database: Database) -> None:
    batches: Sequence[tuple[Sequence[StoredInstance], int]] = (
        ([stored(1)], 1),
        ([stored(1), stored(2)], 2),
        ([stored(2, content="other", seconds=9), stored(2)], 3),  # both versions are kept
        ([stored(2, seconds=20)], 3),  # known bytes that are current again
    )
    for images, versions in batches:
        write(database, partial(add_instances, instances=images))
        with database.reading() as uow:
            assert dispensable.used_bytes(uow) == versions * 1000


def test_a_part_that_comes_again_is_known_for_a_part_and_the_whole_is_not_analysed_twice(database: Database) -> None:
    slices = [stored(number) for number in (1, 2, 3)] + [stored(9, series=f"{SERIES}.2")]
    write(database, lambda uow: add_instances(uow, slices))
    close(database, slices[:3])
    with database.writing() as uow:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        made = results()
        jobs.finish_job(uow, job.id, job.attempt, made, [Outgoing("pacs", n, each) for n, each in enumerate(made)], {})
        uow.commit()
    for delivery in lease(database):
        deliver(database, delivery)
    remove(database)
    write(database, lambda uow: add_instances(uow, [*slices[:2], stored(7), stored(8)]))
    assert lacking(database) == {STUDY: 1}  # of the second series: more images of the first are no substitute
    write(database, lambda uow: add_instances(uow, slices[2:]))
    assert lacking(database) == {}
    close(database, slices[:3])
    after = record(database)
    assert [(each.id, each.state, each.current) for each in after.jobs] == [(job.id, JobState.DONE, True)]
    assert {each.state for each in after.deliveries} == {DeliveryState.DELIVERED}
    assert lease(database) == []
    with database.reading() as uow:
        assert index.instances_of_job(uow, job.id) == slices[:3]  # what the job was about is told again


def lacking(database: Database) -> dict[str, int]:
    """Return how many images lack of what was removed, by the study, by the list and by the study alone."""
    with database.reading() as uow:
        found = {each.study_instance_uid: int(each.reason.numbers["missing"]) for each in removals.parts(uow)}
        for study in list_studies(uow):
            reason = removals.why_not_whole(uow, study.study_instance_uid)
            assert found.get(study.study_instance_uid) == (reason and reason.numbers["missing"])
            assert study.removal is not None
            assert found.get(study.study_instance_uid, 0) == study.removal.missing
    return found


def test_a_second_removal_forgets_nothing_of_the_first(database: Database) -> None:
    slices = [stored(number) for number in (1, 2, 3)]
    write(database, lambda uow: add_instances(uow, slices))
    write(database, lambda uow: close_study(uow, STUDY, [], "nobody wants it", generation(uow, STUDY)))
    remove(database)
    write(database, lambda uow: add_instances(uow, slices[:1]))
    write(database, lambda uow: close_study(uow, STUDY, [], "a part", generation(uow, STUDY)))
    remove(database)
    write(database, lambda uow: add_instances(uow, slices[:2]))
    assert lacking(database) == {STUDY: 1}
    assert record(database).summary.removal.instances == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_job_whose_images_are_gone_is_not_tried_again_until_it_is_planned_anew(database: Database) -> None:
    write(database, lambda uow: add_instances(uow, [stored(1)]))
    close(database, [stored(1)])

    def refuse(uow: UnitOfWork) -> None:
        job = jobs.lease_job(uow, "keeper", 30)
        assert job is not None
        jobs.refuse_job(uow, job.id, job.attempt, Reason("MissingSlices", "A gap."), {})

    write(database, refuse)
    remove(database)
    write(database, lambda uow: retry_study(uow, STUDY))
    assert [job.state for job in record(database).jobs] == [JobState.REFUSED]
    write(database, lambda uow: add_instances(uow, [stored(1)]))
    close(database, [stored(1)])
    write(database, lambda uow: retry_study(uow, STUDY))
    assert [job.state for job in record(database).jobs] == [JobState.QUEUED]
    with database.reading() as uow:
        assert index.instances_of_job(uow, record(database).jobs[0].id) == [stored(1)]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_results_of_a_study_that_was_removed_are_still_predecessors(database: Database) -> None:
    done(database)
    remove(database)
    newer = stored(1, content="corrected")
    write(database, lambda uow: add_instances(uow, [newer]))
    close(database, [newer])
    with database.reading() as uow:
        first, second = record(database).jobs
        assert [each.sop_instance_uid for each in predecessors_of(uow, second.id)] == [f"{STUDY}.77.1"]
        assert (first.current, second.current) == (False, True)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_database_that_is_lost_learns_of_it_from_the_manifest(database: Database, tmp_path: Path) -> None:
    done(database)
    removed = remove(database)
    before = record(database)
    with database.reading() as uow:
        patient = uow.execute(select(PatientRow.patient_name, PatientRow.identity_digest)).one()
    folder = tmp_path / "new"
    folder.mkdir()
    with migrated("sqlite", folder) as lost:
        write(lost, lambda uow: retention.restore_removed(uow, STUDY, removed, lambda _path: True))
        with lost.reading() as uow:
            assert list_studies(uow) == []  # a record without its removal says nothing
        write(lost, lambda uow: retention.restore_removed(uow, STUDY, removed))
        found = record(lost)
        assert found.summary.removal == before.summary.removal
        assert found.summary.first_received_at == before.summary.first_received_at
        assert found.summary.accession_number == "A123"
        assert [each["series_instance_uid"] for each in found.series] == [SERIES]
        assert found.revision == before.revision == 1
        with lost.reading() as uow:
            assert uow.execute(select(PatientRow.patient_name, PatientRow.identity_digest)).one() == patient
        write(lost, lambda uow: retention.restore_removed(uow, STUDY, removed))  # again: the same
        assert record(lost) == found
        write(lost, lambda uow: _enter_jobs(uow, before))
        write(lost, lambda uow: retention.restore_removed(uow, STUDY, removed))  # once the results are there
        with lost.reading() as uow:
            assert uow.execute(select(JobRow.inputs_removed)).scalar_one()
            assert None not in set(uow.execute(select(ResultRow.removed_at)).scalars())
            assert dispensable.used_bytes(uow) == 0
        write(lost, lambda uow: add_instances(uow, [stored(1)]))
        assert lacking(lost) == {}
        write(lost, lambda uow: add_instances(uow, [stored(2)]))
        assert record(lost).summary.instances == 2


def _enter_jobs(uow: UnitOfWork, before: StudyRecord) -> None:
    """Enter the job and its results as a rebuild does, without any image."""
    study = uow.execute(select(StudyRow.id)).scalar_one()
    revision = uow.execute(select(RevisionRow.id)).scalar_one()
    (job,) = before.jobs
    now = uow.now()
    values = {name: getattr(job, name) for name in ("model_name", "model_digest", "series_instance_uid", "parameters")}
    values |= {name: getattr(job, name) for name in ("instances_digest", "parameters_digest", "deadline_seconds")}
    values |= {"study": study, "revision": revision, "state": "DONE", "current": True, "details": {}}
    values |= {"attempt": 1, "crashes": 0, "interruptions": 0, "created_at": now, "not_before": now}
    key = uow.execute(insert(JobRow).values(values).returning(JobRow.id)).scalar_one()
    uow.execute(insert(ResultRow), [asdict(result) | {"job": key} for _, result in before.results])


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_an_earlier_study_of_which_a_part_came_again_is_nothing_to_compare_with(database: Database) -> None:
    older = [stored(number, study=OLD, header={"study_date": "20240101"}) for number in (1, 2)]
    older.append(stored(5, study=OLD, series=f"{OLD}.5", header={"study_date": "20240101"}))  # of no interest
    newer = stored(1, study=NEW, header={"study_date": "20250101"})

    def earlier() -> list[bool]:
        """Return of each earlier study of which a series is here whether it can be used."""
        with database.reading() as uow:
            return [each.unready is None for each in priors.earlier_studies(uow, NEW, ["CT"], 5)]

    write(database, lambda uow: add_instances(uow, older))
    write(database, lambda uow: close_study(uow, OLD, [], "nobody wants it", generation(uow, OLD)))
    remove(database, OLD)
    write(database, lambda uow: add_instances(uow, [newer]))
    assert earlier() == []
    for images, expected in ((older[:1], [False]), (older[:2], [True])):
        write(database, partial(_add_closed, images))
        assert earlier() == expected


def _add_closed(images: Sequence[StoredInstance], uow: UnitOfWork) -> None:
    add_instances(uow, images)
    close_study(uow, OLD, [], "nobody wants it", generation(uow, OLD))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_record_tells_what_each_job_read_and_where_it_lay(database: Database) -> None:
    done(database)
    removed = remove(database)
    assert removed["instances"] == [[stored(1).header.sop_instance_uid, stored(1).digest, stored(1).path]]
    (job,) = removed["jobs"]
    assert (job["model_name"], job["reads"]) == ("lung_ct", [0])
    assert retention.removed_paths(removed) == [stored(1).path, *(each.path for each in results())]


def test_no_look_goes_through_all_that_was_ever_here(tmp_path: Path) -> None:
    with migrated("sqlite", tmp_path) as database:
        plans = query_plans(database, lambda uow: dispensable.due(uow, Limits(days=1, most_bytes=-1), 5))
    scans = re.findall(r"SCAN (\w+ USING COVERING INDEX \w+|\w+)", plans)
    assert {scan for scan in scans if scan.startswith(("study", "result", "instance", "delivery", "job"))} == {
        "study USING COVERING INDEX ix_study_kept",
        "study",
        "result USING COVERING INDEX ix_result_kept",
    }
    assert "SCAN study USING INDEX ix_study_last_received_at" in plans  # the oldest first, no further than needed
