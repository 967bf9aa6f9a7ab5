"""Whoever has refusal reports written goes on, whatever becomes of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import add_instances, generation
from db.overview.queries import retry_study, study_record
from db.work.notices import is_notice_waiting
from db.work.revisions import close_study
from hilum.config import Settings
from hilum.entries import ModelSettings, PeerSettings
from hilum.notifying import Notifier
from hilum.processes import StopSignal
from hilum.sections import NodeSettings, ResultSettings
from study.errors import Reason
from study.forms import Form
from study.states import StudyState
from tests.support.databases import STUDY, migrated, planned, stored

GAP = Reason("MissingSlices", "Slice gap of 7.00 mm between two slices.")
PEER = PeerSettings(name="pacs", ae_title="PACS", host="127.0.0.1", port=104, results=(Form.SEG, Form.REFUSAL))


def refuse(database: Database) -> None:
    """Bring a study into the index whose model refuses it, and whose images are in no file."""
    image = stored(1)
    job = planned([image], refusal=GAP)
    told = replace(job, parameters=job.parameters | {"wishes": [PEER.wish().to_json()]})
    with database.writing() as uow:
        add_instances(uow, [image])
        close_study(uow, STUDY, [told], "", generation(uow, STUDY))
        uow.commit()


def test_a_report_that_nobody_is_sent_any_more_is_owed_no_more(tmp_path: Path) -> None:
    settings = Settings(
        node=NodeSettings(data_dir=tmp_path / "var"),
        results=ResultSettings(refusal_delay_seconds=0),
        peers={"pacs": PEER},
        models={"lung_ct": ModelSettings(name="lung_ct", bundle="builtin:lung_ct", deliver=False)},
        base_dir=tmp_path,
    )
    with migrated("sqlite", tmp_path) as database:
        refuse(database)
        notifier = Notifier(settings, database, FileStore(settings.data_dir), StopSignal(), "node/keeper/1")
        assert notifier.turn()
        with database.reading() as uow:
            record = study_record(uow, STUDY)
            assert not is_notice_waiting(uow)
        assert record is not None
        assert record.results == ()
        assert [event.kind for event in record.events][-1] == "job_refused"
        with database.writing() as uow:
            retry_study(uow, STUDY)
            assert not is_notice_waiting(uow)


def test_images_that_are_gone_end_the_report_and_nobody_else(tmp_path: Path) -> None:
    settings = Settings(
        node=NodeSettings(data_dir=tmp_path / "var"),
        results=ResultSettings(refusal_delay_seconds=0),
        peers={"pacs": PEER},
        base_dir=tmp_path,
    )
    with migrated("sqlite", tmp_path) as database:
        refuse(database)
        notifier = Notifier(settings, database, FileStore(settings.data_dir), StopSignal(), "node/keeper/1")
        assert notifier.turn()
        assert not notifier.turn()  # on record, and not tried for ever
        with database.reading() as uow:
            record = study_record(uow, STUDY)
        assert record is not None
        assert record.summary.state is StudyState.REFUSED
        assert [event.kind for event in record.events][-1] == "notice_failed"
        with database.writing() as uow:
            retry_study(uow, STUDY)  # somebody has put the images back
            assert is_notice_waiting(uow)
