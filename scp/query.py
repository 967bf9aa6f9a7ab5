"""Ask a peer what it holds: a Study Root C-FIND SCU (PS3.4 C.6.2)."""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset

from scp.object_file import UNCOMPRESSED, Offer
from scp.requesting import Peer, Timeouts, association_with
from study.errors import DeliveryError, PeerUnreachable

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
_SUCCESS = 0x0000
_PENDING = frozenset({0xFF00, 0xFF01})


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
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID = study_instance_uid
    identifier.SeriesInstanceUID = series_instance_uid
    identifier.SOPInstanceUID = sop_instance_uid
    found = _find(peer, calling_ae_title, identifier, timeouts)
    return any(str(match.get("SOPInstanceUID", "")) == sop_instance_uid for match in found)


def _find(peer: Peer, calling_ae_title: str, identifier: Dataset, timeouts: Timeouts | None) -> list[Dataset]:
    offers = [Offer(STUDY_ROOT_FIND, syntax) for syntax in UNCOMPRESSED]
    matches = []
    last = None
    with association_with(peer, calling_ae_title, offers, timeouts) as association:
        for answer, match in association.send_c_find(identifier, STUDY_ROOT_FIND):
            last = answer.get("Status")
            if last in _PENDING and match is not None:
                matches.append(match)
        if last is None:
            association.abort()  # there is nobody to release it with
    if last is None:
        raise PeerUnreachable(f"{peer.name} did not answer the C-FIND.")
    if last != _SUCCESS:
        raise DeliveryError(f"{peer.name} answered the C-FIND with status {int(last):04X}.", status=int(last))
    return matches
