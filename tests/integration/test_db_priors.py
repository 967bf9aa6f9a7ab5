"""Earlier studies in the database: which are here, what is on record of a search, what a job reads beside its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from db.complete import priors
from db.engine import Database
from db.images.index import add_instances, generation
from db.overview.queries import retry_study, study_record
from db.tables import PriorSearchRow
from db.work.revisions import close_study
from study.entities import PlannedPrior, StoredInstance
from study.errors import ArchiveError, Reason
from study.priors import INCOMPLETE
from study.searches import FoundStudy, PriorOutcome, SearchState
from tests.support.databases import DIALECTS, STUDY, migrated, planned, query_plans, stored

SPRING, WINTER = "1.9.1", "1.9.2"


@pytest.fixture(params=DIALECTS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with migrated(request.param, tmp_path) as database:
        yield database


def images(study: str, date: str, count: int = 3, *, fetched: bool = False, **header: object) -> list[StoredInstance]:
    said = {"study_date": date} | header
    made = (stored(number, study=study, series=f"{study}.1", header=said) for number in range(count))
    return [replace(each, fetched=fetched) for each in made]


def add(database: Database, instances: Sequence[StoredInstance]) -> None:
    with database.writing() as uow:
        add_instances(uow, instances)
        uow.commit()


def close(database: Database, study: str) -> None:
    with database.writing() as uow:
        close_study(uow, study, [], "no model wants it", generation(uow, study))
        uow.commit()


def begin(database: Database, *found: FoundStudy, state: SearchState = SearchState.SEARCHING) -> None:
    """Put on record how far the search for the study is."""
    with database.writing() as uow:
        priors.begin_searches(uow, STUDY, ["lung_ct"])
        search = priors.searches_of(uow, STUDY)["lung_ct"]
        priors.note_search(uow, replace(search, found=found, state=state, attempts=1))
        uow.commit()


def earlier(database: Database, most: int = 5) -> list[tuple[str, int, bool]]:
    """Return UID, number of instances, and whether it is ready, of the earlier studies that are here."""
    with database.reading() as uow:
        found = priors.earlier_studies(uow, STUDY, ["CT"], most)
    return [(each.study_instance_uid, sum(map(len, each.series.values())), each.unready is None) for each in found]


def test_earlier_studies_of_the_same_patient_id_the_latest_first(database: Database) -> None:
    add(database, images(STUDY, "20240203"))
    add(database, images(WINTER, "20210302", 2))
    add(database, images(SPRING, "20230511", patient_name="Another^Name"))  # whose they are is judged by the headers
    add(database, images("1.9.3", "20230512", patient_id="P2"))
    add(database, images("1.9.4", "20240204"))
    add(database, images("1.9.5", "20230601", modality="MR"))
    add(database, images("1.9.6", ""))
    for study in (WINTER, SPRING):
        close(database, study)
    assert earlier(database) == [(SPRING, 3, True), (WINTER, 2, True)]
    assert earlier(database, most=1) == [(SPRING, 3, True)]
    with database.reading() as uow:
        (found, _) = priors.earlier_studies(uow, STUDY, ["CT"], 5)
        assert [each.header.patient_name for each in found.series[f"{SPRING}.1"]] == ["Another^Name"] * 3
        assert priors.earlier_studies(uow, STUDY, [], 5) == ()


@pytest.mark.parametrize("header", [{"patient_id": ""}, {"study_date": ""}])
def test_without_an_id_or_a_date_there_is_no_earlier_study(database: Database, header: dict[str, object]) -> None:
    said = {"study_date": "20240203"} | header
    add(database, [stored(number, header=said) for number in range(3)])
    add(database, images(SPRING, "20230511", patient_id=""))
    assert earlier(database) == []


def test_what_still_arrives_is_not_ready(database: Database) -> None:
    add(database, images(STUDY, "20240203"))
    add(database, images(SPRING, "20230511"))
    assert earlier(database) == [(SPRING, 3, False)]
    close(database, SPRING)
    assert earlier(database) == [(SPRING, 3, True)]


def test_what_is_fetched_is_ready_once_its_search_says_so(database: Database) -> None:
    add(database, images(STUDY, "20240203"))
    add(database, images(SPRING, "20230511", fetched=True))
    counts = {f"{SPRING}.1": 5}
    begin(database, FoundStudy(SPRING, "20230511", outcome=PriorOutcome.FETCHING, series=counts))
    with database.reading() as uow:
        (found,) = priors.earlier_studies(uow, STUDY, ["CT"], 5)
    assert found.archived == counts
    assert found.unready is not None
    assert found.unready.code == INCOMPLETE
    done = FoundStudy(SPRING, "20230511", outcome=PriorOutcome.HERE, series=counts)
    begin(database, done, state=SearchState.DONE)
    assert earlier(database) == [(SPRING, 3, True)]


def test_a_search_comes_back_as_it_was_noted(database: Database) -> None:
    add(database, images(STUDY, "20240203"))
    reason = Reason("MissingSlices", "Größe", {"missing": 2})
    found = (
        FoundStudy(SPRING, "20230511", "101112", PriorOutcome.UNUSABLE, {"1.2": 7, "1.3": None}, reason),
        FoundStudy(WINTER, "20210302"),
    )
    begin(database, *found)
    with database.reading() as uow:
        search = priors.searches_of(uow, STUDY)["lung_ct"]
        record = study_record(uow, STUDY)
        due = priors.searches_due(uow, ["MODALITY"], 10)
        assert priors.searches_due(uow, ["OTHER"], 10) == []
    assert search.found == found
    assert (search.state, search.attempts) == (SearchState.SEARCHING, 1)
    assert record is not None
    assert record.prior_searches == (search,)
    assert due == [search]
    with database.writing() as uow:
        priors.note_search(uow, search, again_in_seconds=60)
        uow.commit()
    with database.reading() as uow:
        assert priors.searches_due(uow, ["MODALITY"], 10) == []


def test_a_search_is_begun_once_for_each_model_of_what_awaits_evaluation(database: Database) -> None:
    add(database, images(STUDY, "20240203"))
    models = ["lung_ct", "spleen"]
    with database.reading() as uow:
        (waiting,) = priors.unsearched(uow, ["MODALITY"], models)
        assert priors.unsearched(uow, ["OTHER"], models) == []
    assert (waiting.study_instance_uid, waiting.models) == (STUDY, frozenset())
    begin(database)
    with database.reading() as uow:
        (waiting,) = priors.unsearched(uow, ["MODALITY"], models)
        assert priors.unsearched(uow, ["MODALITY"], ["lung_ct"]) == []
    assert waiting.models == {"lung_ct"}
    begin(database)  # again changes nothing
    with database.reading() as uow:
        assert list(priors.searches_of(uow, STUDY)) == ["lung_ct"]
    close(database, STUDY)
    with database.reading() as uow:
        assert priors.unsearched(uow, ["MODALITY"], models) == []


@pytest.mark.parametrize(
    ("state", "outcome", "again"),
    [
        (SearchState.FAILED, PriorOutcome.HERE, True),
        (SearchState.DONE, PriorOutcome.FAILED, True),
        (SearchState.DONE, PriorOutcome.UNUSABLE, True),
        (SearchState.DONE, PriorOutcome.HERE, False),
    ],
)
def test_retry_searches_again_where_that_had_failed(
    database: Database, state: SearchState, outcome: PriorOutcome, *, again: bool
) -> None:
    add(database, images(STUDY, "20240203"))
    begin(database, FoundStudy(SPRING, "20230511", outcome=outcome), state=state)
    with database.writing() as uow:
        before = priors.searches_of(uow, STUDY)["lung_ct"].begun_at
        uow.execute(update(PriorSearchRow).values(begun_at=before - timedelta(hours=1)))
        before -= timedelta(hours=1)
        retry_study(uow, STUDY)
        uow.commit()
    with database.reading() as uow:
        search = priors.searches_of(uow, STUDY)["lung_ct"]
        assert (search.begun_at > before) == again
    expected = (SearchState.SEARCHING, 0, 0) if again else (state, 1, 1)
    assert (search.state, search.attempts, len(search.found)) == expected


def test_a_job_reads_the_very_versions_that_it_was_planned_for(database: Database) -> None:
    now, then = images(STUDY, "20240203"), images(SPRING, "20230511")
    add(database, [*now, *then])
    prior = PlannedPrior(
        SPRING, "20230511", f"{SPRING}.1", tuple((each.header.sop_instance_uid, each.digest) for each in then[::-1])
    )
    with database.writing() as uow:
        job = replace(planned(now), priors=(prior,))
        (key,) = close_study(uow, STUDY, [job], "", generation(uow, STUDY)).job_ids
        uow.commit()
    newer = [
        replace(stored(number, study=SPRING, content="new"), received_at=each.received_at)
        for number, each in enumerate(then)
    ]
    add(database, newer)
    with database.reading() as uow:
        ((*found,),) = priors.priors_of_job(uow, key)
    assert [each.digest for each in found] == [each.digest for each in then[::-1]]


def test_a_plan_that_names_what_is_not_here_is_an_error(database: Database) -> None:
    now = images(STUDY, "20240203")
    add(database, now)
    prior = PlannedPrior(SPRING, "20230511", f"{SPRING}.1", (("1.2.3", "d" * 64),))
    with database.writing() as uow, pytest.raises(ArchiveError, match="earlier study that is not here"):
        close_study(uow, STUDY, [replace(planned(now), priors=(prior,))], "", generation(uow, STUDY))


def test_no_look_for_earlier_studies_goes_through_all_patients(tmp_path: Path) -> None:
    with migrated("sqlite", tmp_path) as database:
        add(database, [*images(STUDY, "20240203"), *images(SPRING, "20230511")])
        plans = query_plans(database, lambda uow: priors.earlier_studies(uow, STUDY, ["CT"], 5))
        plans += query_plans(database, lambda uow: priors.unsearched(uow, ["MODALITY"], ["lung_ct"]))
        plans += query_plans(database, lambda uow: priors.searches_due(uow, ["MODALITY"], 5))
    assert "SEARCH patient" in plans
    assert re.findall(r"SCAN (?!CONSTANT)\w+", plans) == []
