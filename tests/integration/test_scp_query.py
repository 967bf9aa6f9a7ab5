"""Questions to archives: Orthanc, and archives that answer what can not be true, too much or nothing."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pynetdicom import evt

from scp.association.requesting import Peer, Timeouts
from scp.retrieving import query
from scp.retrieving.query import STUDY_ROOT_FIND, Questioner
from scp.sending.sender import send_files
from study.errors import DeliveryError, NoAcceptedContext, PeerUnreachable, QueryFailed
from study.holdings import ArchivedInstance, ArchivedSeries, ArchivedStudy
from tests.support.network import free_port
from tests.support.odd_archives import answering, cut_off, odd_archive, raw_answer, raw_bytes
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.series import ct_series, save_series

STUDY, SERIES = "1.2.826.1", "1.2.826.1.1"
OTHER_STUDY = "1.2.826.2"
QUICK = Timeouts(connection=5.0, negotiation=5.0, answer=0.3, network=5.0)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    with running_orthanc(folder, settings={"DefaultEncoding": "Utf8"}) as running:
        kept = [
            ct_series(np.zeros((3, 4, 4)), study_instance_uid=STUDY, series_instance_uid=SERIES, attributes=attributes)
            for attributes in [
                {
                    "PatientID": "P 1",
                    "SpecificCharacterSet": "ISO_IR 192",
                    "PatientName": "Дое^Ида",
                    "StudyDate": "20240203",
                    "BodyPartExamined": "CHEST",
                }
            ]
        ]
        for study, patient_id, date in ((OTHER_STUDY, "P 1", "20250203"), ("1.2.826.3", "P 12", "20240203")):
            attributes = {"PatientID": patient_id, "StudyDate": date}
            kept.append(ct_series(np.zeros((1, 4, 4)), study_instance_uid=study, attributes=attributes))
        for number, series in enumerate(kept):
            files = save_series(series, folder / str(number))
            assert all(item.outcome for item in send_files(running.peer, "SCU", files))
        yield running


def match(**attributes: object) -> Dataset:
    dataset = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what can not be true
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
    return dataset


def test_orthanc_says_what_it_holds(orthanc: Orthanc) -> None:
    with Questioner(orthanc.peer, "HILUM") as questioner:
        assert questioner.study(STUDY) == ArchivedStudy(
            study_instance_uid=STUDY,
            patient_id="P 1",
            patient_name="Дое^Ида",
            patient_birth_date="19700101",
            patient_sex="O",
            study_date="20240203",
            study_time="101112",
            study_description="Phantom",
            accession_number="A123",
            modalities=("CT",),
            instances=3,
        )
        assert questioner.study("1.2.3") is None
        assert questioner.series_of(STUDY) == (ArchivedSeries(SERIES, "CT", 3, "Phantom axial", "CHEST", 3),)
        assert questioner.series_of("1.2.3") == ()
        held = questioner.instances_of(STUDY, SERIES)
        assert held == tuple(sorted(held, key=lambda instance: instance.sop_instance_uid))
        uids = {instance["MainDicomTags"]["SOPInstanceUID"] for instance in orthanc.instances(StudyInstanceUID=STUDY)}
        assert {instance.sop_instance_uid for instance in held} == uids
        assert {instance.sop_class_uid for instance in held} == {"1.2.840.10008.5.1.4.1.1.2"}
        assert questioner.instances_of(STUDY, "1.2.3") == ()


def test_orthanc_names_the_studies_of_one_patient(orthanc: Orthanc) -> None:
    def found(*keys: str) -> list[str]:
        return [study.study_instance_uid for study in questioner.studies_of(*keys)]

    with Questioner(orthanc.peer, "HILUM") as questioner:
        assert found("P 1") == found("P 1 ") == [STUDY, OTHER_STUDY]
        assert found("P") == []
        assert found("P 1", "", "20240203", "20240203") == [STUDY]
        assert found("P 1", "", "20240204") == [OTHER_STUDY]
        assert found("P 1", "", "", "20240202") == []
        assert found("P 1", "HOSPITAL") in ([], [STUDY, OTHER_STUDY])  # as the archive looks at issuers or not


@pytest.mark.parametrize("patient_id", ["", " ", "*", "P?", "P1\\P2", "P*1", "a\nb", "x" * 65])
def test_what_an_archive_takes_for_many_patients_is_not_asked(patient_id: str) -> None:
    questioner = Questioner(Peer("nobody", "NOBODY", "127.0.0.1", free_port()), "HILUM")
    with pytest.raises(QueryFailed, match="Patient ID can not be looked for") as caught:
        questioner.studies_of(patient_id)
    assert caught.value.permanent
    assert "P1" not in caught.value.words
    if patient_id:
        with pytest.raises(QueryFailed, match="Issuer of Patient ID"):
            questioner.studies_of("P1", patient_id)


def test_what_is_no_uid_is_not_asked(orthanc: Orthanc) -> None:
    with Questioner(orthanc.peer, "HILUM") as questioner:
        for uid in ("*", "1.2.*", "1.2\\1.3"):
            with pytest.raises(QueryFailed, match="is no UID"):
                questioner.study(uid)


ASKED: dict[str, Callable[[Questioner], object]] = {
    "study": lambda questioner: questioner.study(STUDY),
    "series": lambda questioner: questioner.series_of(STUDY),
    "instances": lambda questioner: questioner.instances_of(STUDY, SERIES),
    "patient": lambda questioner: questioner.studies_of("P1"),
}


@pytest.mark.parametrize(
    ("question", "matches", "words"),
    [
        ("study", [match(StudyInstanceUID=OTHER_STUDY)], "another Study Instance UID than was asked for"),
        ("study", [match(PatientID="P1")], "no Study Instance UID"),
        ("study", [match(StudyInstanceUID=STUDY, PatientID=number) for number in "12"], "twice, and not alike"),
        ("study", [match(StudyInstanceUID=STUDY, NumberOfStudyRelatedInstances=-1)], "Instances can not be"),
        ("study", [match(StudyInstanceUID=STUDY, NumberOfStudyRelatedInstances=10**9)], "Instances can not be"),
        ("study", [match(StudyInstanceUID=STUDY, QueryRetrieveLevel="SERIES")], "at another"),
        ("series", [match(StudyInstanceUID=OTHER_STUDY, SeriesInstanceUID=SERIES)], "another Study Instance UID"),
        ("series", [match(SeriesInstanceUID="1.2.*")], "no Series Instance UID"),
        ("series", [match(SeriesInstanceUID=SERIES, NumberOfSeriesRelatedInstances=-7)], "can not be"),
        ("instances", [match(SeriesInstanceUID="1.9", SOPInstanceUID="1.2.3")], "another Series Instance UID"),
        ("instances", [match(SOPInstanceUID="../../etc")], "no SOP Instance UID"),
        ("instances", [match(SOPInstanceUID="1.2.3", SOPClassUID="CT")], "no SOP Class UID"),
        ("instances", [match(SOPInstanceUID="1.2", SOPClassUID=uid) for uid in ("1.3", "1.4")], "not alike"),
        ("patient", [match(StudyInstanceUID=f"1.2.{n}", PatientID="P1") for n in range(9)], "more than 4 matches"),
    ],
)
def test_an_answer_that_can_not_be_true_is_an_error(
    monkeypatch: pytest.MonkeyPatch, question: str, matches: list[Dataset], words: str
) -> None:
    monkeypatch.setattr(query, "MOST_STUDIES", 4)
    good = match(SeriesInstanceUID=SERIES)
    with odd_archive([STUDY_ROOT_FIND], [(evt.EVT_C_FIND, answering(matches))]) as archive:
        with Questioner(archive.peer, "HILUM") as questioner:
            with pytest.raises(QueryFailed, match=words) as caught:
                ASKED[question](questioner)
            assert caught.value.words.startswith("odd")
            # The archive is as well as before: it is asked on, over the same association
            matches[:] = [good]
            assert len(questioner.series_of(STUDY)) == 1
        assert archive.is_released


def test_an_archive_is_told_to_stop_once_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "MOST_STUDIES", 4)
    cancelled = threading.Event()

    def find_for_ever(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        number = 0
        while not event.is_cancelled:
            number += 1
            cancelled.wait(0.005)  # else its own thread hardly comes to read that it is to stop
            yield 0xFF00, match(StudyInstanceUID=f"1.2.{number}", PatientID="P1")
        cancelled.set()
        yield 0xFE00, None

    with (
        odd_archive([STUDY_ROOT_FIND], [(evt.EVT_C_FIND, find_for_ever)]) as archive,
        Questioner(archive.peer, "HILUM") as questioner,
        pytest.raises(QueryFailed, match="more than 4"),
    ):
        questioner.studies_of("P1")
    assert cancelled.wait(5)
    assert archive.is_released


def test_an_archive_that_ignores_the_keys_gives_no_other_patient() -> None:
    others = [match(StudyInstanceUID=f"1.2.{n}", PatientID=f"P{n}", StudyDate="20200101") for n in (1, 12)]
    nameless = match(StudyInstanceUID="1.2.5")
    repeated = [match(StudyInstanceUID="1.2.6", PatientID="P1 ", NumberOfStudyRelatedInstances=0)] * 2
    with (
        odd_archive([STUDY_ROOT_FIND], [(evt.EVT_C_FIND, answering([*others, nameless, *repeated]))]) as archive,
        Questioner(archive.peer, "HILUM") as questioner,
    ):
        assert [study.study_instance_uid for study in questioner.studies_of("P1")] == ["1.2.1", "1.2.6"]
        # A study without a date is left to the caller, and a count of none is no count
        late = questioner.studies_of("P1", from_date="20210101")
        assert late == (ArchivedStudy("1.2.6", "P1", instances=None),)


@pytest.mark.parametrize(("status", "permanent"), [(0xA700, False), (0xA900, True), (0xC001, False), (0x0122, True)])
def test_a_failure_is_told_with_its_status(status: int, permanent: bool) -> None:
    with (
        odd_archive([STUDY_ROOT_FIND], [(evt.EVT_C_FIND, answering([], last=status))]) as archive,
        Questioner(archive.peer, "HILUM") as questioner,
        pytest.raises(QueryFailed, match=f"{status:04X}") as caught,
    ):
        questioner.study(STUDY)
    assert (caught.value.status, caught.value.permanent) == (status, permanent)
    assert archive.is_released


def test_an_archive_that_takes_no_queries_is_told() -> None:
    with (
        odd_archive(["1.2.840.10008.1.1"], []) as archive,
        pytest.raises(NoAcceptedContext),
        Questioner(archive.peer, "HILUM"),
    ):
        pass


def says_nothing(event: evt.Event, ended: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
    del event
    ended.wait(10)
    yield 0x0000, None


def repeats_itself(event: evt.Event, ended: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
    del event
    while not ended.wait(0.05):
        yield 0xFF00, match(SeriesInstanceUID=SERIES)


def aborts(event: evt.Event, ended: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
    del ended
    yield 0xFF00, match(SeriesInstanceUID=SERIES)
    event.assoc.abort()


def hangs_up(event: evt.Event, ended: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
    cut_off(event)
    ended.wait(10)
    yield 0x0000, None


def answers_another_question(event: evt.Event, ended: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
    raw_answer(event, b"\x08\x00\x52\x00\x00\x00\x00\x00", message_id=999)
    ended.wait(10)
    yield 0x0000, None


def sends_no_data_set(event: evt.Event, ended: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
    raw_answer(event, b"\x08\x00\x52\x00CS\xff\xff" * 3)
    ended.wait(10)
    yield 0x0000, None


def sends_far_too_much(event: evt.Event, ended: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
    raw_answer(event, b"\0" * 2**21)
    ended.wait(10)
    yield 0x0000, None


def announces_gigabytes(event: evt.Event, ended: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
    raw_bytes(event, b"\x04\x00\x7f\xff\xff\xff")
    ended.wait(10)
    yield 0x0000, None


def stops_within_a_piece(event: evt.Event, ended: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
    raw_bytes(event, b"\x04\x00\x00\x00\x01\x00half")
    ended.wait(10)
    yield 0x0000, None


def sends_a_message_that_is_none(event: evt.Event, ended: threading.Event) -> Iterator[tuple[int, Dataset | None]]:
    raw_bytes(event, b"\x04\x00\x00\x00\x00\x0a\x00\x00\x00\x06\x01\x03junk")
    ended.wait(10)
    yield 0x0000, None


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (says_nothing, PeerUnreachable),
        (repeats_itself, PeerUnreachable),
        (aborts, PeerUnreachable),
        (hangs_up, PeerUnreachable),
        (answers_another_question, QueryFailed),
        (sends_no_data_set, QueryFailed),
        (sends_far_too_much, QueryFailed),
        (announces_gigabytes, DeliveryError),
        (stops_within_a_piece, PeerUnreachable),
        (sends_a_message_that_is_none, QueryFailed),
    ],
)
def test_an_archive_that_does_not_answer_properly_holds_nobody_up(
    behaviour: Callable[[evt.Event, threading.Event], Iterator[tuple[int, Dataset | None]]], error: type[DeliveryError]
) -> None:
    ended = threading.Event()
    started = time.monotonic()
    with odd_archive([STUDY_ROOT_FIND], [(evt.EVT_C_FIND, behaviour, [ended])]) as archive:
        with pytest.raises(error), Questioner(archive.peer, "HILUM", QUICK) as questioner:
            questioner.series_of(STUDY)
        assert time.monotonic() - started < 20
        ended.set()


def test_once_an_association_is_over_every_question_says_so() -> None:
    ended = threading.Event()
    with (
        odd_archive([STUDY_ROOT_FIND], [(evt.EVT_C_FIND, aborts, [ended])]) as archive,
        Questioner(archive.peer, "HILUM", QUICK) as questioner,
    ):
        for _ in range(2):
            with pytest.raises(PeerUnreachable):
                questioner.series_of(STUDY)


def test_many_answers_arrive_and_wait_for_the_asker() -> None:
    matches = [match(SOPInstanceUID=f"1.2.{number}") for number in range(1, 1501)]
    with (
        odd_archive([STUDY_ROOT_FIND], [(evt.EVT_C_FIND, answering(matches))]) as archive,
        Questioner(archive.peer, "HILUM") as questioner,
    ):
        held = questioner.instances_of(STUDY, SERIES)
    assert set(held) == {ArchivedInstance(f"1.2.{number}") for number in range(1, 1501)}
    assert archive.is_released
