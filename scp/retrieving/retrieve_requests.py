"""One C-GET or C-MOVE request: what is put, and what became of it (PS3.4 C.4.2, C.4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.presentation import PresentationContext

from scp.association.conversation import Answer, Conversation
from scp.receiving.moves import Moves
from scp.retrieving.arrivals import Arrivals
from scp.retrieving.retrieve_offers import STUDY_ROOT_GET, STUDY_ROOT_MOVE
from scp.retrieving.retrieve_status import Meaning, Verdict, meaning_of


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Parameters
    ----------
    came
        How many instances it brought, as far as can be told.
    """

    meaning: Meaning
    last: Answer
    came: int
    completed: int
    failed: int
    warnings: int

    @property
    def has_understood_no_list(self) -> bool:
        """Tell whether the archive looks as if it took but one of several UIDs, or none."""
        if self.meaning.verdict is Verdict.NOT_UNDERSTOOD:
            return True
        done = self.meaning.verdict in (Verdict.DONE, Verdict.DONE_IN_PART)
        return done and self.came + self.failed <= 1


@dataclass(frozen=True)
class Destination:
    """Where a C-MOVE sends to: our own listener.

    Parameters
    ----------
    archive
        AE title of who sends.
    moves
        Where receivers look up what was asked for; None where they do not.
    """

    ae_title: str
    archive: str
    moves: Moves | None

    def announced(self, sop_instance_uids: Sequence[str]) -> AbstractContextManager[None]:
        """Have receivers know that these instances come because we asked for them."""
        if self.moves is None or not sop_instance_uids:
            return nullcontext()
        return self.moves.under_way(self.archive, sop_instance_uids)


class Asker:
    """Puts the requests, by C-GET, or by C-MOVE where there is a destination."""

    def __init__(
        self,
        conversation: Conversation,
        context: PresentationContext,
        arrivals: Arrivals,
        destination: Destination | None = None,
    ) -> None:
        self.method: Literal["get", "move"] = "get" if destination is None else "move"
        self._conversation = conversation
        self._context = context
        self._arrivals = arrivals
        self._destination = destination
        self._counts: dict[str, int] = {}

    def ask(self, identifier: Dataset, sop_instance_uids: Sequence[str]) -> Outcome:
        """Put one request and follow it to its end.

        Parameters
        ----------
        sop_instance_uids
            Those that `identifier` names.
        """
        with self._destination.announced(sop_instance_uids) if self._destination else nullcontext():
            return self._asked(identifier)

    def _asked(self, identifier: Dataset) -> Outcome:
        before = len(self._arrivals.stored)
        self._counts = {}
        last = None
        responses = self._conversation.ask(
            self._request(),
            identifier,
            self._context,
            stopping=self._arrivals.has_to_stop,
            progress=self._progress,
        )
        with closing(responses):
            for last in responses:
                self._note(last)
        assert last is not None
        completed, failed, warnings = (self._counts.get(name, 0) for name in ("completed", "failed", "warnings"))
        came = completed + warnings if self._destination else len(self._arrivals.stored) - before
        return Outcome(meaning_of(last.status), last, came, completed, failed, warnings)

    def _request(self) -> C_GET | C_MOVE:
        if self._destination is None:
            get = C_GET()
            get.AffectedSOPClassUID = UID(STUDY_ROOT_GET)
            return get
        move = C_MOVE()
        move.AffectedSOPClassUID = UID(STUDY_ROOT_MOVE)
        move.MoveDestination = self._destination.ae_title
        return move

    def _note(self, answer: Answer) -> None:
        # Each count is optional in each response: the last one that was told stands
        told = {"completed": answer.completed, "failed": answer.failed, "warnings": answer.warnings}
        self._counts |= {name: count for name, count in told.items() if count is not None}

    def _progress(self) -> object:
        arrivals, conversation = self._arrivals, self._conversation
        return (
            len(arrivals.stored),
            arrivals.refused,
            conversation.received_bytes // 2**20,
            tuple(self._counts.items()),
        )
