"""What a peer offers us, found by one association over which nothing is sent."""

from __future__ import annotations

from enum import Enum

from pydicom import uid

from scp.association.contexts import STORAGE_COMMITMENT, VERIFICATION
from scp.association.requesting import Peer, Timeouts, association_with
from scp.retrieving.query import STUDY_ROOT_FIND
from scp.retrieving.retrieve_offers import STUDY_ROOT_GET, STUDY_ROOT_MOVE, query_offers
from study.errors import NoAcceptedContext


class Service(Enum):
    """A service that the node makes use of, with its name in words."""

    VERIFICATION = "C-ECHO"
    FIND = "C-FIND"
    GET = "C-GET"
    MOVE = "C-MOVE"
    STORAGE_COMMITMENT = "storage commitment"
    KEY_OBJECT = "Key Objects"


_SOP_CLASSES = {
    VERIFICATION: Service.VERIFICATION,
    STUDY_ROOT_FIND: Service.FIND,
    STUDY_ROOT_GET: Service.GET,
    STUDY_ROOT_MOVE: Service.MOVE,
    STORAGE_COMMITMENT: Service.STORAGE_COMMITMENT,
    str(uid.KeyObjectSelectionDocumentStorage): Service.KEY_OBJECT,
}


def services_of(peer: Peer, calling_ae_title: str, timeouts: Timeouts | None = None) -> frozenset[Service]:
    """Return the services for which the peer accepts a presentation context from us.

    Accepting one does not say that it serves every request: who may query or retrieve, an archive may judge later.

    Raises
    ------
    PeerUnreachable, AssociationRejected
        If it can not be asked.
    """
    try:
        with association_with(peer, calling_ae_title, query_offers(*_SOP_CLASSES), timeouts) as association:
            accepted = {str(context.abstract_syntax) for context in association.accepted_contexts if context.as_scu}
    except NoAcceptedContext:
        accepted = set()
    return frozenset(service for sop_class, service in _SOP_CLASSES.items() if sop_class in accepted)
