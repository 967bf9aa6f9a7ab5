"""Send objects: a C-STORE SCU that says of each object what became of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import _config
from pynetdicom.association import Association

from scp.association.requesting import Peer, Timeouts, association_with
from scp.sending.object_file import (
    UNCOMPRESSED,
    ObjectFile,
    Offer,
    associations_for,
    converted,
    describe,
    even,
    offers_for,
)
from scp.sending.store_status import Meaning, Verdict, meaning_of
from study.errors import (
    AnswerLost,
    ArchiveError,
    DeliveryError,
    HilumError,
    NoAcceptedContext,
    PeerUnreachable,
    StoreFailed,
)
from study.words import quoted

# A file whose Transfer Syntax the peer accepted is sent in pieces as its bytes are, without being decoded.
_config.STORE_SEND_CHUNKED_DATASET = True

_LAST_MESSAGE_ID = 65535


@dataclass(frozen=True)
class StoreOutcome:
    """The peer holds the object.

    Parameters
    ----------
    status
        Of the C-STORE response.
    words
        What the status means; the peer's own comment with it, where it gave one.
    transfer_syntax_uid
        The one it was sent in.
    """

    status: int
    words: str
    transfer_syntax_uid: str

    @property
    def has_warning(self) -> bool:
        """Tell whether the peer stored it with a warning."""
        return meaning_of(self.status).verdict is Verdict.STORED_WITH_WARNING


class Sender:
    """One association with a peer, for any number of objects; a context manager.

    Parameters
    ----------
    offers
        What to propose, 128 at most: `offers_for` gives it for known files.

    Raises
    ------
    PeerUnreachable, AssociationRejected, NoAcceptedContext
        On entering, as `association_with`.
    """

    def __init__(
        self, peer: Peer, calling_ae_title: str, offers: Iterable[Offer], *, timeouts: Timeouts | None = None
    ) -> None:
        self._peer = peer
        self._calling_ae_title = calling_ae_title
        self._offers = tuple(offers)
        self._timeouts = timeouts
        self._stack = ExitStack()
        self._association: Association | None = None
        self._message_id = 0

    def __enter__(self) -> Self:
        self._association = self._stack.enter_context(
            association_with(self._peer, self._calling_ae_title, self._offers, self._timeouts)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    @property
    def is_open(self) -> bool:
        """Tell whether more can be sent."""
        return self._association is not None

    def end(self) -> None:
        """Release the association before the block ends; what is left to be sent needs a new one."""
        self._association = None
        self._stack.close()

    def store(self, path: Path) -> StoreOutcome:
        """Send the file at `path`; on return the peer has answered that it stored it.

        It goes as it is where the peer takes its Transfer Syntax, else converted to an uncompressed one.

        Raises
        ------
        NoAcceptedContext
            If the peer takes the SOP Class in no usable Transfer Syntax, or says that it does not take it from us.
        StoreFailed
            If the peer answered with a failure; permanent where it will never take the object as it is. Status 0111
            (duplicate) counts as stored once `prove_stored` says so.
        PeerUnreachable
            If the connection broke or no answer came.
        ArchiveError
            If the file is no DICOM file.
        """
        file = describe(path)
        syntax = self._transfer_syntax_for(file)
        if syntax == file.transfer_syntax_uid:
            with even(path) as sendable:
                status, comment = self._ask(sendable)
        else:
            status, comment = self._ask(converted(file, syntax))
        return self._judge(status, comment, syntax)

    def _ask(self, what: Path | Dataset) -> tuple[int, str]:
        """Send one C-STORE and return the Status and Error Comment of its response."""
        association = self._association
        if association is None:
            raise RuntimeError("a Sender is used within its `with` block")
        self._message_id = self._message_id % _LAST_MESSAGE_ID + 1
        try:
            answer = association.send_c_store(what, msg_id=self._message_id)
        except RuntimeError as error:  # what pynetdicom raises where the association is over
            raise PeerUnreachable(f"{self._peer.name} ended the association before the object was sent.") from error
        if "Status" not in answer:
            association.abort()  # there is nobody to release it with
            raise AnswerLost(f"{self._peer.name} did not answer the C-STORE.")
        return int(answer.Status), quoted(str(answer.get("ErrorComment") or "").strip())

    def _judge(self, status: int, comment: str, syntax: str) -> StoreOutcome:
        meaning = meaning_of(status)
        words = f"{meaning.words} ({comment})" if comment else meaning.words
        if meaning.verdict in (Verdict.STORED, Verdict.STORED_WITH_WARNING):
            return StoreOutcome(status, words, syntax)
        raise self._refusal(status, meaning, comment)

    def _refusal(self, status: int, meaning: Meaning, comment: str) -> DeliveryError:
        told = f"{self._peer.name} answered C-STORE with {status:04X}: {meaning.words}."
        if meaning.verdict is Verdict.CONTEXT_REFUSED:
            return NoAcceptedContext(told, permanent=True, status=status, comment=comment)
        permanent = meaning.verdict is Verdict.KEEP_ASIDE
        return StoreFailed(told, permanent=permanent, status=status, comment=comment)

    def _transfer_syntax_for(self, file: ObjectFile) -> str:
        accepted = {
            str(context.transfer_syntax[0])
            for context in (self._association.accepted_contexts if self._association else ())
            if context.abstract_syntax == file.sop_class_uid
        }
        usable = [syntax for syntax in (file.transfer_syntax_uid, *UNCOMPRESSED) if syntax in accepted]
        if not usable:
            raise NoAcceptedContext(
                f"{self._peer.name} takes no {UID(file.sop_class_uid).name} in a Transfer Syntax that we offer.",
                permanent=True,
            )
        return usable[0]


@dataclass(frozen=True)
class SentFile:
    """What became of one file: an outcome, or the error that it met."""

    path: Path
    outcome: StoreOutcome | None = None
    error: HilumError | None = None


def send_files(
    peer: Peer, calling_ae_title: str, paths: Iterable[Path], *, timeouts: Timeouts | None = None
) -> Iterator[SentFile]:
    """Send files of any SOP Class and Transfer Syntax, and yield what became of each.

    A file that is refused stops no other, nor does one at which the peer ends the association: the rest goes over a new
    one. Where that is not given, or ends at its first file as well, all that is left is yielded with that error.
    """
    files = []
    for path in paths:
        try:
            files.append(describe(path))
        except ArchiveError as error:
            yield SentFile(path, error=error)
    for group in associations_for(files):
        yield from _send_group(peer, calling_ae_title, deque(group), timeouts)


def _send_group(
    peer: Peer, calling_ae_title: str, waiting: deque[ObjectFile], timeouts: Timeouts | None
) -> Iterator[SentFile]:
    offers = offers_for(waiting)
    answers = 1
    while waiting and answers:
        answers = 0
        try:
            with Sender(peer, calling_ae_title, offers, timeouts=timeouts) as sender:
                for sent in _send_until_broken(sender, waiting):
                    answers += not isinstance(sent.error, PeerUnreachable)
                    yield sent
        except DeliveryError as error:
            yield from (SentFile(file.path, error=error) for file in waiting)
            return
    given_up = PeerUnreachable(f"{peer.name} ended two associations in a row; the rest was not sent.")
    yield from (SentFile(file.path, error=given_up) for file in waiting)


def _send_until_broken(sender: Sender, waiting: deque[ObjectFile]) -> Iterator[SentFile]:
    while waiting:
        path = waiting.popleft().path
        try:
            yield SentFile(path, outcome=sender.store(path))
        except PeerUnreachable as error:
            yield SentFile(path, error=error)
            return
        except (DeliveryError, ArchiveError) as error:
            yield SentFile(path, error=error)
