"""Fetch from an archive what it holds: Study Root C-GET and C-MOVE as SCU (PS3.4 C.4.2, C.4.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from scp.association.conversation import Conversation
from scp.association.requesting import Peer, Timeouts, association_with
from scp.receiving.expected import Expected
from scp.receiving.inbox import Inbox
from scp.receiving.incoming_object import AcceptedContext, Parties
from scp.receiving.moves import Moves
from scp.retrieving.answers import failed_uids
from scp.retrieving.arrivals import Arrivals, storage_contexts
from scp.retrieving.query import Questioner
from scp.retrieving.retrieve_offers import STUDY_ROOT_GET, STUDY_ROOT_MOVE, USUAL_CLASSES, query_offers, storage_offers
from scp.retrieving.retrieve_requests import Asker, Destination, Outcome
from scp.retrieving.retrieve_status import Verdict
from study.errors import NoAcceptedContext, PeerUnreachable, RetrieveFailed
from study.uids import is_storable_uid

Method = Literal["auto", "get", "move"]

MOST_IN_A_LIST: Final = 200
"""SOP Instance UIDs in one request: with them an identifier stays below 16 KiB."""
_MOST_IN_VAIN = 10  # requests for one instance that bring nothing, one after the other
_LONGEST_PDU = 2**18
_SERVICES = {"auto": (STUDY_ROOT_GET, STUDY_ROOT_MOVE), "get": (STUDY_ROOT_GET,), "move": (STUDY_ROOT_MOVE,)}
_NOT_OFFERED = {
    "auto": "{peer} offers us neither C-GET of these SOP Classes nor C-MOVE; allow our AE title to retrieve there.",
    "get": "{peer} offers us no C-GET of these SOP Classes; allow it there for our AE title, or use C-MOVE.",
    "move": "{peer} offers us no C-MOVE; allow it there for our AE title.",
}


@dataclass(frozen=True)
class Wanted:
    """What is asked for: a series, or some of its instances.

    Parameters
    ----------
    sop_instance_uids
        Empty: all of the series.
    sop_class_uids
        What the instances may be; a C-GET proposes these, and the archive can send no other. Empty where nobody knows:
        the usual classes of images are proposed.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...] = ()
    sop_class_uids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Retrieved:
    """What an archive gave.

    Parameters
    ----------
    method
        How it was asked.
    stored
        SOP Instance UIDs that are durable in the inbox (C-GET). After a C-MOVE it is empty: they came to our listener.
    completed, failed, warnings
        Sub-operations as the archive counts them.
    words
        What there is to say of it; "" where all came.
    failed_sop_instance_uids
        Those that the archive says it could not send, where it says so.
    """

    method: Literal["get", "move"]
    stored: tuple[str, ...] = ()
    completed: int = 0
    failed: int = 0
    warnings: int = 0
    words: str = ""
    failed_sop_instance_uids: tuple[str, ...] = ()


def retrieve(
    peer: Peer,
    calling_ae_title: str,
    wanted: Wanted,
    inbox: Inbox,
    method: Method = "auto",
    *,
    timeouts: Timeouts | None = None,
    stopping: Callable[[], bool] | None = None,
    moves: Moves | None = None,
) -> Retrieved:
    """Have the archive send what is `wanted`, and return what it gave.

    By C-GET what comes is durable in `inbox` before the archive is told Success; by C-MOVE the archive sends it to our
    listener, so it has to know our AE title, host and port. Both are marked as fetched. "auto" takes C-GET where the
    archive offers it.

    Parameters
    ----------
    stopping
        Asked now and then; once it is true the archive is told to stop (C-CANCEL).
    moves
        Where a C-MOVE is written down for the receivers of our listener. The instances of a whole series are asked for
        first then (C-FIND). None: a receiver knows them only where the archive names us as Move Originator.

    Raises
    ------
    PeerUnreachable, AssociationRejected
        If it can not be asked, or falls silent.
    NoAcceptedContext
        If it offers none of the methods to us, or sends none of the classes.
    QueryFailed
        If it could not say what is in the series, where that has to be known.
    RetrieveFailed
        If it refused, or broke off; what came before that is stored all the same.
    """
    uids = (wanted.study_instance_uid, wanted.series_instance_uid, *wanted.sop_instance_uids)
    if not all(map(is_storable_uid, uids)):
        raise RetrieveFailed("What is to be fetched is named by something that is no UID.", permanent=True)
    errand = _Errand(peer, calling_ae_title, inbox, timeouts, stopping or _never, moves)
    retrieved = errand.run(wanted, method)
    if retrieved is None:
        named = errand.named(wanted)
        retrieved = errand.run(named, "move") if named.sop_instance_uids else None
    return retrieved or Retrieved("move", words=f"{peer.name} holds no instance of the series.")


@dataclass(frozen=True)
class _Errand:
    """Who is asked, by whom, and where to put what comes."""

    peer: Peer
    calling_ae_title: str
    inbox: Inbox
    timeouts: Timeouts | None
    stopping: Callable[[], bool]
    moves: Moves | None

    def named(self, wanted: Wanted) -> Wanted:
        """Return what is wanted with every instance that the archive holds of the series by name."""
        with Questioner(self.peer, self.calling_ae_title, self.timeouts) as questioner:
            held = questioner.instances_of(wanted.study_instance_uid, wanted.series_instance_uid)
        return replace(wanted, sop_instance_uids=tuple(instance.sop_instance_uid for instance in held))

    def run(self, wanted: Wanted, method: Method) -> Retrieved | None:
        """Return what the archive gave; None where the instances have to be named first, for receivers to know them."""
        must_be_named = self.moves is not None and not wanted.sop_instance_uids
        if method == "move" and must_be_named:
            return None
        offers = query_offers(*_SERVICES[method])
        stores = () if method == "move" else storage_offers(wanted.sop_class_uids or USUAL_CLASSES, taken=len(offers))
        try:
            with association_with(
                self.peer,
                self.calling_ae_title,
                (*offers, *stores),
                self.timeouts,
                serving=dict.fromkeys(offer.sop_class_uid for offer in stores),
                longest_pdu=_LONGEST_PDU,
            ) as association:
                conversation = Conversation(association, self.peer, self.timeouts, RetrieveFailed)
                contexts = storage_contexts(association, stores)
                get = conversation.context_for(STUDY_ROOT_GET) if contexts else None
                if get is not None:
                    return self._get(association, conversation, get, contexts, wanted)
                move = conversation.context_for(STUDY_ROOT_MOVE)
                if move is not None:
                    return None if must_be_named else self._move(conversation, move, wanted)
                raise NoAcceptedContext
        except NoAcceptedContext as error:
            raise NoAcceptedContext(_NOT_OFFERED[method].format(peer=self.peer.name), permanent=True) from error

    def _get(
        self,
        association: Association,
        conversation: Conversation,
        context: PresentationContext,
        storing: Mapping[int, AcceptedContext],
        wanted: Wanted,
    ) -> Retrieved:
        arrivals = self._arrivals(wanted)
        parties = Parties(self.peer.ae_title, self.calling_ae_title, self.peer.host)
        arrivals.open(association, storing, parties, self.inbox)
        return _Retrieval(self.peer, wanted, arrivals, Asker(conversation, context, arrivals)).run()

    def _move(self, conversation: Conversation, context: PresentationContext, wanted: Wanted) -> Retrieved:
        arrivals = self._arrivals(wanted)
        destination = Destination(self.calling_ae_title, self.peer.ae_title, self.moves)
        return _Retrieval(self.peer, wanted, arrivals, Asker(conversation, context, arrivals, destination)).run()

    def _arrivals(self, wanted: Wanted) -> Arrivals:
        expected = Expected(wanted.study_instance_uid, wanted.series_instance_uid, frozenset(wanted.sop_instance_uids))
        return Arrivals(expected, self.stopping)


class _Retrieval:
    """Asks for all that is wanted, in lists where the archive takes them, and says what came."""

    def __init__(self, peer: Peer, wanted: Wanted, arrivals: Arrivals, asker: Asker) -> None:
        self._peer = peer
        self._wanted = wanted
        self._arrivals = arrivals
        self._asker = asker
        self._outcomes: list[Outcome] = []
        self._takes_lists = True
        self._in_vain = 0

    def run(self) -> Retrieved:
        """Return what the archive gave."""
        uids = self._wanted.sop_instance_uids
        try:
            if not uids:
                self._ask(())
            for start in range(0, len(uids), MOST_IN_A_LIST):
                self._ask_for(uids[start : start + MOST_IN_A_LIST])
        except PeerUnreachable:
            if not self._arrivals.is_stopped:
                raise
        if self._outcomes and all(each.meaning.verdict is Verdict.NOT_UNDERSTOOD for each in self._outcomes):
            raise self._refusal(self._outcomes[-1])
        return Retrieved(
            method=self._asker.method,
            stored=tuple(self._arrivals.stored),
            completed=sum(outcome.completed for outcome in self._outcomes),
            failed=sum(outcome.failed for outcome in self._outcomes),
            warnings=sum(outcome.warnings for outcome in self._outcomes),
            words=self._words(),
            failed_sop_instance_uids=self._named_as_failed(),
        )

    def _ask_for(self, uids: Sequence[str]) -> None:
        if self._arrivals.is_stopped:
            return
        if self._takes_lists and len(uids) > 1:
            if not self._ask(uids).has_understood_no_list:
                return
            self._outcomes.pop()
        self._ask_one_by_one(uids)

    def _ask_one_by_one(self, uids: Sequence[str]) -> None:
        each_came = True
        for uid in uids:
            if self._in_vain == _MOST_IN_VAIN or self._arrivals.is_stopped:
                return
            if uid not in self._arrivals.stored:
                came = self._ask((uid,)).came > 0
                each_came = each_came and came
                self._in_vain = 0 if came else self._in_vain + 1
        # A list may be refused as a whole for one instance that is not there
        self._takes_lists = self._takes_lists and not each_came

    def _ask(self, uids: Sequence[str]) -> Outcome:
        """Put one request; it is an error where the archive refuses to serve us, or has to be stopped."""
        outcome = self._asker.ask(self._identifier(uids), uids)
        if self._arrivals.objection:
            raise self._failure(f"{self._peer.name}: {self._arrivals.objection}.")
        verdict = outcome.meaning.verdict
        refused = verdict in (Verdict.REFUSED, Verdict.NOT_ALLOWED)
        if refused or (verdict is Verdict.STOPPED and not self._arrivals.is_stopped):
            raise self._refusal(outcome)
        self._outcomes.append(outcome)
        return outcome

    def _refusal(self, outcome: Outcome) -> RetrieveFailed:
        last, meaning = outcome.last, outcome.meaning
        remedy = ""
        if self._asker.method == "move" and meaning.verdict is Verdict.NOT_UNDERSTOOD:
            remedy = "; does it know our AE title, with our host and port, as a destination?"
        return self._failure(
            f"{self._peer.name} answered the C-{self._asker.method.upper()} with {last.words}: "
            f"{meaning.words}{remedy or '.'}",
            permanent=meaning.verdict is Verdict.NOT_ALLOWED,
            status=last.status,
            comment=last.comment,
        )

    def _failure(
        self, words: str, *, permanent: bool = False, status: int | None = None, comment: str = ""
    ) -> RetrieveFailed:
        stored = {"stored": len(self._arrivals.stored)}
        return RetrieveFailed(words, stored, permanent=permanent, status=status, comment=comment)

    def _identifier(self, uids: Sequence[str]) -> Dataset:
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "IMAGE" if uids else "SERIES"
        identifier.StudyInstanceUID = self._wanted.study_instance_uid
        identifier.SeriesInstanceUID = self._wanted.series_instance_uid
        if uids:
            identifier.SOPInstanceUID = list(uids)
        return identifier

    def _named_as_failed(self) -> tuple[str, ...]:
        named = dict.fromkeys(uid for outcome in self._outcomes for uid in failed_uids(outcome.last))
        wanted = frozenset(self._wanted.sop_instance_uids)
        return tuple(uid for uid in named if not wanted or uid in wanted)

    def _words(self) -> str:
        if self._arrivals.is_stopped:
            return "It was stopped."
        counted = sum(outcome.completed + outcome.warnings for outcome in self._outcomes)
        came = counted if self._asker.method == "move" else len(self._arrivals.stored)
        failed = sum(outcome.failed for outcome in self._outcomes)
        asked = len(self._wanted.sop_instance_uids) or max(counted + failed, came)
        if came >= asked:
            return ""
        told = [outcome.last.words for outcome in self._outcomes if outcome.meaning.verdict is not Verdict.DONE]
        why = self._arrivals.refusal or (f"it answered {told[-1]}" if told else "it gave no reason")
        return f"{asked - came} of {asked} instances did not come from {self._peer.name}: {why}."


def _never() -> bool:
    return False
