"""Complete by proof, against Orthanc and archives that answer badly or not at all: receiver, indexer and archivist.

One node has a sender for each kind of archive, so that all studies wait for their quiet periods at once.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt

from db.complete import inquiries
from hilum.config import Settings
from scp.association.requesting import Peer, Timeouts
from scp.retrieving.query import STUDY_ROOT_FIND
from study.entities import StudyRecord
from study.inquiry import Inquiry, InquiryState, Standing
from study.states import JobState, StudyState
from tests.support.network import free_port, wait_until
from tests.support.odd_archives import odd_archive
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.reception import Reception, receiving, send_to
from tests.support.series import ct_series

SETTLE, QUIET = 0.5, 3.0
HASTY = Timeouts(connection=0.5, negotiation=0.5, answer=2.0, network=2.0)
MR = "1.2.840.10008.5.1.4.1.1.4"
NODE_PORT = free_port()


def images(count: int, study: str, description: str = "Lung 1.0", **attributes: object) -> list[Dataset]:
    """Return the images of one series."""
    described = {"SeriesDescription": description, **attributes}
    return ct_series(np.zeros((count, 8, 8)), study_instance_uid=study, attributes=described)


def uids(of: list[Dataset]) -> set[str]:
    return {str(image.SOPInstanceUID) for image in of}


@dataclass
class Case:
    """A study that is sent by a sender of its own.

    Parameters
    ----------
    archived, sent
        Its images in the archive, and those that the node is sent.
    """

    calling: str
    study: str = field(default_factory=lambda: str(generate_uid()))
    archived: list[Dataset] = field(default_factory=list)
    sent: list[Dataset] = field(default_factory=list)

    def lung(self, count: int, withheld: int = 0) -> Case:
        """Give it a series of which the first few are withheld from the node."""
        made = images(count, self.study)
        self.archived += made
        self.sent += made[withheld:]
        return self

    def bone(self, count: int, withheld: int = 0) -> Case:
        """Give it a series for another model."""
        made = images(count, self.study, "Bone 1.0", SeriesNumber=4)
        self.archived += made
        self.sent += made[withheld:]
        return self


def configured(
    folder: Path,
    archives: Mapping[str, Mapping[str, Any]],
    senders: Mapping[str, Mapping[str, Any]],
    quiet: float,
    port: int = NODE_PORT,
) -> Settings:
    """Return the settings of a node with archives and senders by name, and a model for each kind of series."""
    made = Settings.model_validate(
        {
            "node": {"data_dir": "var", "port": port, "disk_reserve_mb": 0},
            "study": {"quiet_seconds": quiet, "settle_seconds": SETTLE},
            "peers": {
                **{
                    name: {"name": name, "ae_title": "PACS", "host": "127.0.0.1"} | dict(of)
                    for name, of in archives.items()
                },
                **{name: {"name": name, "ae_title": name.upper()} | dict(of) for name, of in senders.items()},
            },
            "models": {
                name.lower(): {
                    "name": name.lower(),
                    "bundle": "builtin:lung_ct",
                    "select": {"description_include": name, "slices": [5, ""]},
                }
                for name in ("Lung", "Bone")
            },
            "base_dir": folder,
        }
    )
    made.data_dir.mkdir(parents=True)
    return made


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    node = {"hilum": Peer("hilum", "HILUM", "127.0.0.1", NODE_PORT)}
    with running_orthanc(tmp_path_factory.mktemp("pacs"), modalities=node) as orthanc:
        yield orthanc


def nonsense(study: str, series: str, count: int, named: int) -> Any:  # noqa: ANN401 - a handler of pynetdicom
    """Return a C-FIND handler that counts some instances and names others."""

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        level = event.identifier.QueryRetrieveLevel
        for number in range(1 if level == "SERIES" else named):
            match = Dataset()
            match.QueryRetrieveLevel, match.StudyInstanceUID, match.SeriesInstanceUID = level, study, series
            if level == "SERIES":
                match.Modality, match.NumberOfSeriesRelatedInstances = "CT", count
            else:
                match.SOPInstanceUID = f"1.2.3.{number}"
            yield 0xFF00, match
        yield 0x0000, None

    return find


@dataclass
class Story:
    """A node to which each case was sent."""

    reception: Reception
    cases: Mapping[str, Case]

    def study(self, name: str) -> str:
        return self.cases[name].study

    def record(self, name: str) -> StudyRecord:
        found = self.reception.record(self.study(name))
        assert found is not None
        return found

    def inquiry(self, name: str) -> Inquiry:
        found = self.reception.inquiry(self.study(name))
        assert found is not None
        return found

    def words(self, name: str, kind: str) -> str:
        return self.reception.wait_for(self.study(name), kind).words

    def here(self, name: str, *, fetched: bool | None = None) -> set[str]:
        return self.reception.here(self.study(name), fetched=fetched)

    def jobs(self, name: str) -> list[tuple[str, JobState, int]]:
        return jobs(self.record(name))


def jobs(record: StudyRecord) -> list[tuple[str, JobState, int]]:
    """Return the model, state and number of instances of each current job."""
    queued = {event.job_id: event.numbers["instances"] for event in record.events if event.kind == "job_queued"}
    return [(job.model_name, job.state, queued.get(job.id, 0)) for job in record.jobs if job.current]


@pytest.fixture(scope="module")
def story(pacs: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    cases = {
        "withheld": Case("MODALITY").lung(20, withheld=7),
        "whole": Case("MODALITY").lung(30),
        "moved": Case("MOVED").lung(12, withheld=4),
        "refused": Case("WAITING").lung(20, withheld=7).bone(9),
        "wanted": Case("MODALITY").lung(12, withheld=12).bone(10),
        "sent": Case("SENT").lung(12, withheld=12).bone(10),
        "silent": Case("SILENT").lung(12),
        "nobody": Case("NOBODY").lung(12),
        "odd": Case("ODD").lung(12),
        "stored": Case("STORED").lung(6),
        "unwanted": Case("MODALITY"),
    }
    cases["unwanted"].sent += images(6, cases["unwanted"].study, Modality="MR", SOPClassUID=MR)
    reports = images(3, cases["withheld"].study, Modality="SR")
    send_to(pacs.peer, [image for case in cases.values() for image in case.archived] + reports, folder / "pacs")
    odd_series = str(cases["odd"].sent[0].SeriesInstanceUID)
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        find = nonsense(cases["odd"].study, odd_series, 30, 13)
        odd = stack.enter_context(odd_archive([STUDY_ROOT_FIND], [(evt.EVT_C_FIND, find)]))
        archives: dict[str, dict[str, Any]] = {
            "pacs": {"port": pacs.dicom_port},
            "pacs_move": {"port": pacs.dicom_port, "retrieve": "move"},
            "pacs_none": {"port": pacs.dicom_port, "retrieve": "none"},
            "silent_pacs": {"port": silent.getsockname()[1]},
            "no_pacs": {"port": free_port()},
            "odd_pacs": {"port": odd.peer.port, "ae_title": "ODD"},
        }
        senders: dict[str, dict[str, Any]] = {
            "modality": {"archive": "pacs"},
            "sent": {"archive": "pacs", "scope": "sent"},
            "stored": {"archive": "pacs", "analyse": False},
            "moved": {"archive": "pacs_move"},
            "waiting": {"archive": "pacs_none"},
            "silent": {"archive": "silent_pacs"},
            "nobody": {"archive": "no_pacs"},
            "odd": {"archive": "odd_pacs"},
        }
        settings = configured(folder, archives, senders, QUIET)
        reception = stack.enter_context(receiving(settings, timeouts=HASTY, listens_for=60))
        for case in cases.values():
            reception.send(case.sent, calling=case.calling)
        yield Story(reception, cases)


def test_seven_withheld_images_are_fetched_and_no_others(story: Story) -> None:
    fetched, complete = story.words("withheld", "missing_fetched"), story.words("withheld", "complete")
    whole = story.cases["withheld"].archived
    assert fetched.startswith("7 instance(s) were missing, and were fetched from pacs by C-GET: ")
    assert {uid for uid in uids(whole) if uid in fetched} == uids(whole[:7])
    assert story.here("withheld", fetched=True) == uids(whole[:7])
    assert story.here("withheld") == uids(whole)
    assert complete == "Complete: 20 instance(s) in 1 series, proven by pacs."
    assert story.jobs("withheld") == [("lung", JobState.QUEUED, 20)]
    assert story.record("withheld").summary.state is StudyState.COMPLETE
    assert not story.reception.events(story.study("withheld"), "late_instances")


def test_a_study_that_is_all_here_takes_two_answers(story: Story) -> None:
    assert story.words("whole", "complete") == "Complete: 30 instance(s) in 1 series, proven by pacs."
    inquiry = story.inquiry("whole")
    assert inquiry.state is InquiryState.SETTLED
    assert [(each.here, each.archived, each.standing) for each in inquiry.series] == [(30, 30, Standing.PROVEN)]
    assert inquiry.asked >= 2
    assert story.here("whole", fetched=True) == set()


def test_what_the_archive_sends_to_us_alone_is_fetched_by_c_move(story: Story) -> None:
    assert "4 instance(s) were missing, and were fetched from pacs_move by C-MOVE" in story.words(
        "moved", "missing_fetched"
    )
    assert story.words("moved", "complete") == "Complete: 12 instance(s) in 1 series, proven by pacs_move."
    assert story.here("moved", fetched=True) == uids(story.cases["moved"].archived[:4])


def test_a_series_of_which_nothing_came_is_fetched_unless_only_what_was_sent_counts(story: Story) -> None:
    assert story.words("wanted", "complete") == "Complete: 22 instance(s) in 2 series, proven by pacs."
    assert story.here("wanted", fetched=True) == uids(story.cases["wanted"].archived[:12])
    assert story.words("sent", "complete") == "Complete: 10 instance(s) in 1 series, proven by pacs."


@pytest.mark.parametrize("kind", ["silent", "nobody", "odd"])
def test_an_archive_that_says_nothing_of_use_leaves_it_to_the_quiet_period(story: Story, kind: str) -> None:
    complete = story.reception.wait_for(story.study(kind), "complete")
    unproven = story.words(kind, "complete_unproven")
    assert complete.words == "Complete: 12 instance(s) in 1 series, by the quiet period."
    assert "could not say whether the study is complete (" in unproven
    assert f"the quiet period of {QUIET:g} s decided" in unproven
    if kind == "odd":
        assert "(QueryFailed: odd_pacs counts 30 instances of the series" in unproven
        assert "and names 13" in unproven
    took = (complete.at - story.reception.last_received_at(story.study(kind))).total_seconds()
    assert QUIET <= took < QUIET + 5
    assert story.jobs(kind) == [("lung", JobState.QUEUED, 12)]
    assert (story.inquiry(kind).state, story.inquiry(kind).reason is None) == (InquiryState.SETTLED, False)


def test_nobody_is_asked_about_what_no_model_wants_or_nobody_sent_for_analysis(story: Story) -> None:
    assert story.words("stored", "complete") == "Complete: 6 instance(s) in 1 series."
    assert story.reception.inquiry(story.study("stored")) is None
    assert story.words("unwanted", "complete") == "Complete: 6 instance(s) in 1 series."
    assert (story.inquiry("unwanted").state, story.inquiry("unwanted").asked) == (InquiryState.SETTLED, 0)


def test_a_series_that_could_not_be_had_whole_is_refused_and_others_go_on(story: Story) -> None:
    incomplete = story.reception.wait_for(story.study("refused"), "series_incomplete")
    assert (incomplete.numbers["archived"], incomplete.numbers["missing"]) == (20, 7)
    queued, refused = story.record("refused").jobs  # the other model went first
    assert (queued.model_name, queued.state) == ("bone", JobState.QUEUED)
    assert (refused.model_name, refused.state) == ("lung", JobState.REFUSED)
    assert refused.reason is not None
    assert refused.reason.code == "IncompleteSeries"
    assert "pacs_none holds 20 images of the series, and 13 are here" in refused.reason.words
    assert story.words("refused", "complete").endswith(", but for 1 series of which pacs_none holds more.")
    story.reception.send(story.cases["refused"].archived[:7], calling="WAITING")  # what comes later makes it due again
    complete = story.reception.wait_for(story.study("refused"), "complete", 2)
    assert complete.words == "Complete: 29 instance(s) in 2 series, proven by pacs_none."
    assert story.jobs("refused") == [("bone", JobState.QUEUED, 9), ("lung", JobState.QUEUED, 20)]


@pytest.fixture(scope="module")
def patient_settings(pacs: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Give the settings of a node whose quiet period decides nothing."""
    at = {"port": pacs.dicom_port}
    archives: dict[str, dict[str, Any]] = {"pacs": at, "pacs_none": at | {"retrieve": "none"}}
    senders = {"modality": {"archive": "pacs"}, "waiting": {"archive": "pacs_none"}, "lister": {}}
    return configured(tmp_path_factory.mktemp("patient"), archives, senders, quiet=120, port=free_port())


def test_growing_archives_early_models_and_a_stop_in_the_middle(
    pacs: Orthanc, patient_settings: Settings, tmp_path: Path
) -> None:
    growing, early, stopped = Case("MODALITY").lung(24), Case("WAITING").lung(12).bone(9, withheld=4), Case("MODALITY")
    stopped.lung(15, withheld=4)
    send_to(pacs.peer, [*early.archived, *stopped.archived], tmp_path / "pacs")
    with receiving(patient_settings, fetching=False) as reception:
        reception.send(stopped.sent)
        wait_until(lambda: tries(reception, stopped.study) == 1, 20, "an order that nobody carries out")

    with receiving(patient_settings) as reception:
        # A sender without an archive tells itself what it has sent, as it asks for commitment
        listed = Case("LISTER").lung(11)
        reception.send(listed.sent, calling="LISTER")
        wait_until(lambda: reception.here(listed.study) == uids(listed.sent), 20, "the index")
        with reception.database.writing() as uow:
            series = str(listed.sent[0].SeriesInstanceUID)
            inquiries.listed_by_sender(uow, listed.study, {series: frozenset(uids(listed.sent))})
            uow.commit()

        # What was stopped in the middle of fetching finds the same missing again
        whole = growing.archived
        send_to(pacs.peer, whole[:8], tmp_path / "pacs")
        reception.send(whole[:8])
        reception.send(early.sent, calling="WAITING")
        wait_until(lambda: asked(reception, growing.study) >= 1, 20, "an answer")
        send_to(pacs.peer, whole[8:16], tmp_path / "pacs")  # before it had settled: the archive is ahead
        reception.send(whole[8:20])  # and now behind
        wait_until(lambda: is_behind(reception, growing.study), 20, "an archive that is behind")
        assert not reception.events(growing.study, "complete")
        send_to(pacs.peer, whole[16:], tmp_path / "pacs")
        complete = reception.wait_for(growing.study, "complete")
        assert complete.words == "Complete: 24 instance(s) in 1 series, proven by pacs."
        assert uids(whole[20:]) <= reception.here(growing.study, fetched=True) <= uids(whole[8:])

        # A model starts on its own series before the rest has come
        reception.wait_for(early.study, "job_queued")
        record = reception.record(early.study)
        assert record is not None
        assert jobs(record) == [("lung", JobState.QUEUED, 12)]
        assert record.summary.state is StudyState.RECEIVING
        assert record.summary.reason is not None
        assert "5 of 9 images of series 4 (Bone 1.0) are here" in record.summary.reason.words
        assert {verdict.model_name for verdict in record.verdicts} == {"lung"}
        assert not reception.events(early.study, "complete")
        reception.send(early.archived[12:16], calling="WAITING")
        assert reception.wait_for(early.study, "complete").words.startswith(
            "Complete: 21 instance(s) in 2 series, proven"
        )
        record = reception.record(early.study)
        assert record is not None
        assert jobs(record) == [("lung", JobState.QUEUED, 12), ("bone", JobState.QUEUED, 9)]
        assert not reception.events(early.study, "job_superseded")

        complete = reception.wait_for(listed.study, "complete")
        assert complete.words == "Complete: 11 instance(s) in 1 series, proven by the sender's list."
        reception.wait_for(stopped.study, "complete")
        assert reception.here(stopped.study, fetched=True) == uids(stopped.archived[:4])


def asked(reception: Reception, study: str) -> int:
    inquiry = reception.inquiry(study)
    return inquiry.asked if inquiry else 0


def tries(reception: Reception, study: str) -> int:
    inquiry = reception.inquiry(study)
    return sum(each.tries for each in inquiry.series) if inquiry else 0


def is_behind(reception: Reception, study: str) -> bool:
    inquiry = reception.inquiry(study)
    return inquiry is not None and any((each.archived or 0) < each.here for each in inquiry.series)
