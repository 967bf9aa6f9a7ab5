"""Ask a peer what it holds: a Study Root C-FIND SCU (PS3.4 C.6.2)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from types import TracebackType
from typing import Final, Self

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_FIND

from scp.association.conversation import Answer, Conversation
from scp.association.requesting import Peer, Timeouts, association_with
from scp.retrieving import answers
from scp.retrieving.answers import Held
from scp.sending.object_file import UNCOMPRESSED, Offer
from study.errors import NoAcceptedContext, QueryFailed
from study.holdings import ArchivedInstance, ArchivedSeries, ArchivedStudy
from study.uids import is_storable_uid

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
MOST_STUDIES: Final = 1_000
MOST_SERIES: Final = 5_000
MOST_INSTANCES: Final = 100_000

_OF_A_STUDY = (
    "StudyInstanceUID",
    *("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyDescription", "AccessionNumber"),
    *("ModalitiesInStudy", "NumberOfStudyRelatedInstances"),
)
_OF_A_SERIES = (
    "SeriesInstanceUID",
    *("Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined"),
    "NumberOfSeriesRelatedInstances",
)
_OF_AN_INSTANCE = ("SOPInstanceUID", "SOPClassUID")

_SUCCESS = 0x0000
_LONGEST_PATIENT_ID = 64  # LO (PS3.5 6.2)
_WILDCARDS = re.compile(r"[*?\\]")  # PS3.4 C.2.2.2.4; a backslash parts the values of a list
_DATE = re.compile(r"[0-9]{8}")
_LASTING = frozenset({0x0122, 0x0124, 0xA900})
_STATUSES = {
    0x0122: "it does not answer queries",
    0x0124: "we are not allowed to ask; grant our AE title queries there",
    0xA700: "it is out of resources",
    0xA900: "it does not take the keys of the query",
    0xFE00: "it gave the query up",
}


class Questioner:
    """One association with an archive, for any number of questions; a context manager.

    Raises
    ------
    PeerUnreachable, AssociationRejected, NoAcceptedContext
        On entering, as `association_with`; the first one also where an answer does not come, or the archive ends the
        association.
    QueryFailed
        From every question: the archive answered with a failure, or with what can not be true.
    """

    def __init__(self, peer: Peer, calling_ae_title: str, timeouts: Timeouts | None = None) -> None:
        self._peer = peer
        self._calling_ae_title = calling_ae_title
        self._timeouts = timeouts
        self._stack = ExitStack()
        self._conversation: Conversation | None = None

    def __enter__(self) -> Self:
        offers = [Offer(STUDY_ROOT_FIND, syntax) for syntax in UNCOMPRESSED]
        association = self._stack.enter_context(
            association_with(self._peer, self._calling_ae_title, offers, self._timeouts)
        )
        self._conversation = Conversation(association, self._peer, self._timeouts, QueryFailed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._conversation = None
        self._stack.close()

    def studies_of(
        self, patient_id: str, issuer_of_patient_id: str = "", from_date: str = "", to_date: str = ""
    ) -> tuple[ArchivedStudy, ...]:
        """Return the studies of exactly this Patient ID, whoever issued it, in order of UID; 1,000 at most.

        Parameters
        ----------
        issuer_of_patient_id
            Sent as a key where it is known; many archives do not look at it.
        from_date, to_date
            Bounds of the Study Date, both included, as YYYYMMDD; "" for none. A study without a date is among those
            returned.

        Raises
        ------
        QueryFailed
            Also if the ID is empty, or holds what a query takes for a wildcard: nobody is asked then.
        """
        patient_id = patient_id.strip(" ")
        _refuse_to_ask_for_many(patient_id, "Patient ID")
        if issuer_of_patient_id:
            _refuse_to_ask_for_many(issuer_of_patient_id, "Issuer of Patient ID")
        keys = {
            "PatientID": patient_id,
            "IssuerOfPatientID": issuer_of_patient_id,
            "StudyDate": _range(from_date, to_date),
        }
        found = self._find("STUDY", _OF_A_STUDY, keys, answers.study_of, MOST_STUDIES)
        theirs = (study for study in found if study.patient_id == patient_id)
        return self._each_once(
            [study for study in theirs if _is_within(study.study_date, from_date, to_date)],
            lambda study: study.study_instance_uid,
        )

    def study(self, study_instance_uid: str) -> ArchivedStudy | None:
        """Return the study; None where the archive has none of this UID."""
        keys = {"StudyInstanceUID": study_instance_uid}
        found = self._find("STUDY", _OF_A_STUDY, keys, answers.study_of, MOST_STUDIES)
        return next(iter(self._each_once(found, lambda study: study.study_instance_uid)), None)

    def series_of(self, study_instance_uid: str) -> tuple[ArchivedSeries, ...]:
        """Return the series of the study, in order of UID; 5,000 at most."""
        keys = {"StudyInstanceUID": study_instance_uid}
        found = self._find("SERIES", _OF_A_SERIES, keys, answers.series_of, MOST_SERIES)
        return self._each_once(found, lambda series: series.series_instance_uid)

    def instances_of(self, study_instance_uid: str, series_instance_uid: str) -> tuple[ArchivedInstance, ...]:
        """Return the instances of the series, in order of UID; 100,000 at most."""
        keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": series_instance_uid}
        found = self._find("IMAGE", _OF_AN_INSTANCE, keys, answers.instance_of, MOST_INSTANCES)
        return self._each_once(found, lambda instance: instance.sop_instance_uid)

    def holds(self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> bool:
        """Tell whether the archive, asked for this instance in this series and study, names it."""
        keys = {
            "StudyInstanceUID": study_instance_uid,
            "SeriesInstanceUID": series_instance_uid,
            "SOPInstanceUID": sop_instance_uid,
        }
        found = self._find("IMAGE", (), keys, answers.instance_of, MOST_INSTANCES)
        return any(instance.sop_instance_uid == sop_instance_uid for instance in found)

    def _find(
        self, level: str, wanted: tuple[str, ...], keys: dict[str, str], read: Callable[[Dataset], Held], most: int
    ) -> list[Held]:
        """Return what the archive says of each match.

        Parameters
        ----------
        wanted
            Keywords of what it is to tell.
        keys
            What it is to look for.
        most
            With more matches than this it is told to stop.
        """
        above = {keyword: keys[keyword] for keyword in ("StudyInstanceUID", "SeriesInstanceUID") if keyword in keys}
        found: list[Held] = []
        with closing(self._ask(level, dict.fromkeys(wanted, "") | keys)) as responses:
            for response in responses:
                if response.is_last:
                    self._judge(response)
                elif len(found) == most:
                    raise QueryFailed(f"{self._peer.name} finds more than {most} matches.", {"most": most})
                else:
                    found.append(self._read(response, level, above, read))
        return found

    def _each_once(self, found: Iterable[Held], uid_of: Callable[[Held], str]) -> tuple[Held, ...]:
        """Return what was found in order of UID, each once; QueryFailed if two that differ have one UID."""
        try:
            return self._once(found, uid_of)
        except QueryFailed as error:
            raise QueryFailed(f"{self._peer.name}: {error.words}", error.numbers) from error

    def _ask(self, level: str, keys: dict[str, str]) -> Generator[Answer]:
        conversation = self._conversation
        if conversation is None:
            raise RuntimeError("a Questioner is used within its `with` block")
        context = conversation.context_for(STUDY_ROOT_FIND)
        if context is None:
            raise NoAcceptedContext(
                f"{self._peer.name} answers no queries in a Transfer Syntax of ours.", permanent=True
            )
        request = C_FIND()
        request.AffectedSOPClassUID = UID(STUDY_ROOT_FIND)
        return conversation.ask(request, _identifier(level, keys), context)

    def _read(self, response: Answer, level: str, above: dict[str, str], read: Callable[[Dataset], Held]) -> Held:
        with self._naming(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values, and may be a patient's
            dataset = answers.decoded(response)
            answers.hold_against(dataset, level, above)
            return read(dataset)

    def _once(self, found: Iterable[Held], uid_of: Callable[[Held], str]) -> tuple[Held, ...]:
        with self._naming():
            return answers.each_once(found, uid_of)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Say whose answer it is that can not be true."""
        try:
            yield
        except QueryFailed as error:
            raise QueryFailed(f"{self._peer.name}: {error.words}", error.numbers) from error

    def _judge(self, last: Answer) -> None:
        if last.status == _SUCCESS:
            return
        meaning = _STATUSES.get(last.status, "it could not answer")
        raise QueryFailed(
            f"{self._peer.name} answered the C-FIND with {last.words}: {meaning}.",
            permanent=last.status in _LASTING,
            status=last.status,
            comment=last.comment,
        )


def prove_stored(
    peer: Peer,
    calling_ae_title: str,
    *,
    study_instance_uid: str,
    series_instance_uid: str,
    sop_instance_uid: str,
    timeouts: Timeouts | None = None,
) -> bool:
    """Tell whether the peer, asked by C-FIND at the IMAGE level, names this instance in this series and study.

    Raises
    ------
    DeliveryError
        If it cannot be asked: unreachable, rejected, no Query/Retrieve, or a failure for an answer.
    """
    with Questioner(peer, calling_ae_title, timeouts) as questioner:
        return questioner.holds(study_instance_uid, series_instance_uid, sop_instance_uid)


def _identifier(level: str, keys: dict[str, str]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        if value and keyword.endswith("InstanceUID") and not is_storable_uid(value):
            raise QueryFailed(f"What is to be looked for as {keyword} is no UID.", permanent=True)
        setattr(identifier, keyword, value or None)
    if not all(value.isascii() for value in keys.values()):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    return identifier


def _refuse_to_ask_for_many(value: str, name: str) -> None:
    """Let no value pass that an archive would take for a pattern, for a list or for any."""
    if not value.strip() or len(value) > _LONGEST_PATIENT_ID or not value.isprintable() or _WILDCARDS.search(value):
        raise QueryFailed(
            f"The {name} can not be looked for: it is empty, too long, or holds *, ? or \\, which stand for others.",
            permanent=True,
        )


def _range(from_date: str, to_date: str) -> str:
    """Return a range of dates as a key (PS3.4 C.2.2.2.5)."""
    if any(date and not _DATE.fullmatch(date) for date in (from_date, to_date)):
        raise ValueError("a date is YYYYMMDD")
    return f"{from_date}-{to_date}" if from_date or to_date else ""


def _is_within(date: str, from_date: str, to_date: str) -> bool:
    return not date or ((not from_date or date >= from_date) and (not to_date or date <= to_date))
