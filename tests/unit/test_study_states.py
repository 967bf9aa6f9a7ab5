"""States: what a study is, derived from its jobs and deliveries; what may follow what; when a study is complete."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.states import DeliveryState, JobState, StudyState, delivery_sources, job_sources, study_state

J, D, S = JobState, DeliveryState, StudyState


@pytest.mark.parametrize(
    ("jobs", "deliveries", "expected"),
    [
        ([], [], S.NOT_SELECTED),
        ([J.SUPERSEDED], [], S.NOT_SELECTED),
        ([J.QUEUED], [], S.COMPLETE),
        ([J.QUEUED, J.DONE], [D.DELIVERED], S.COMPLETE),
        ([J.QUEUED, J.FAILED], [], S.COMPLETE),
        ([J.RUNNING], [], S.PROCESSING),
        ([J.RUNNING, J.QUEUED, J.FAILED], [D.KEPT_ASIDE], S.PROCESSING),
        ([J.DONE], [], S.DELIVERED),
        ([J.DONE], [D.DELIVERED, D.DELIVERED], S.DELIVERED),
        ([J.DONE], [D.DELIVERED, D.PENDING], S.REPORTED),
        ([J.DONE], [D.PENDING, D.KEPT_ASIDE], S.FAILED),
        ([J.DONE, J.FAILED], [D.DELIVERED], S.FAILED),
        ([J.DONE, J.REFUSED], [D.DELIVERED], S.DELIVERED),
        ([J.DONE, J.SUPERSEDED], [D.DELIVERED], S.DELIVERED),
        ([J.REFUSED], [], S.REFUSED),
        ([J.REFUSED, J.SUPERSEDED], [], S.REFUSED),
        ([J.FAILED], [], S.FAILED),
        ([J.REFUSED, J.FAILED], [], S.FAILED),
    ],
)
def test_state_of_a_study(jobs: list[JobState], deliveries: list[DeliveryState], expected: StudyState) -> None:
    assert study_state(receiving=False, jobs=jobs, deliveries=deliveries, evaluated=True) is expected


_jobs, _deliveries = (
    st.lists(st.sampled_from(JobState), max_size=4),
    st.lists(st.sampled_from(DeliveryState), max_size=4),
)


@given(jobs=_jobs, deliveries=_deliveries, evaluated=st.booleans())
def test_new_instances_come_before_everything(
    jobs: list[JobState], deliveries: list[DeliveryState], evaluated: bool
) -> None:
    assert study_state(receiving=True, jobs=jobs, deliveries=deliveries, evaluated=evaluated) is S.RECEIVING
    assert study_state(receiving=False, jobs=jobs, deliveries=deliveries, evaluated=False) is S.RECEIVING


@given(jobs=_jobs, deliveries=_deliveries)
def test_state_depends_on_no_order_and_delivered_owes_nothing(
    jobs: list[JobState], deliveries: list[DeliveryState]
) -> None:
    state = study_state(receiving=False, jobs=iter(jobs), deliveries=iter(deliveries), evaluated=True)
    assert state is study_state(receiving=False, jobs=jobs[::-1], deliveries=deliveries[::-1], evaluated=True)
    if state is S.DELIVERED:
        assert set(jobs) <= {J.DONE, J.REFUSED, J.SUPERSEDED}
        assert set(deliveries).isdisjoint({D.PENDING, D.STORED, D.KEPT_ASIDE})


@pytest.mark.parametrize(
    ("target", "sources"),
    [
        (J.QUEUED, {J.RUNNING, J.REFUSED, J.FAILED, J.SUPERSEDED}),
        (J.RUNNING, {J.QUEUED}),
        (J.DONE, {J.RUNNING}),
        (J.REFUSED, {J.RUNNING, J.QUEUED, J.FAILED, J.SUPERSEDED}),
        (J.FAILED, {J.RUNNING}),
        (J.SUPERSEDED, {J.QUEUED}),
    ],
)
def test_moves_of_a_job(target: JobState, sources: set[JobState]) -> None:
    assert job_sources(target) == sources


@pytest.mark.parametrize(
    ("target", "sources"),
    [
        (D.PENDING, {D.KEPT_ASIDE, D.STANDBY, D.WITHHELD, D.STORED, D.DELIVERED}),
        (D.STORED, {D.PENDING}),
        (D.DELIVERED, {D.PENDING, D.STORED}),
        (D.KEPT_ASIDE, {D.PENDING}),
        (D.REPLACED, {D.PENDING}),
        (D.WITHHELD, {D.PENDING}),
        (D.WITHDRAWN, set(DeliveryState) - {D.WITHDRAWN, D.REPLACED}),
    ],
)
def test_moves_of_a_delivery(target: DeliveryState, sources: set[DeliveryState]) -> None:
    assert delivery_sources(target) == sources
