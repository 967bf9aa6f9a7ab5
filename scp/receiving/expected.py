"""What an archive may send over an association on which it was asked for something (C-GET): that, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from scp.receiving.head import read_place
from study.errors import ReceiveError

NOT_AUTHORIZED: Final = 0x0124  # PS3.7 C.5.11


@dataclass(frozen=True)
class Expected:
    """The series, or the instances of it, that were asked for.

    Parameters
    ----------
    sop_instance_uids
        Empty: all of the series.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: frozenset[str] = frozenset()

    def refusal_of(self, sop_instance_uid: str) -> ReceiveError | None:
        """Return why an instance that is announced is not taken; None where it is."""
        if self.sop_instance_uids and sop_instance_uid not in self.sop_instance_uids:
            return ReceiveError(NOT_AUTHORIZED, "This instance was not asked for.")
        return None

    def check_place(self, encoded: bytes, transfer_syntax_uid: str) -> None:
        """Make sure that a data set is of the study and series that were asked for.

        Parameters
        ----------
        encoded
            Its first `scp.receiving.head.PLACE_BYTES`, or all of it where it is shorter.

        Raises
        ------
        ReceiveError
            If it is of another, or does not say.
        """
        place = read_place(encoded, transfer_syntax_uid)
        if (place.study_instance_uid, place.series_instance_uid) != (self.study_instance_uid, self.series_instance_uid):
            raise ReceiveError(NOT_AUTHORIZED, "An instance of another study or series was not asked for.")
