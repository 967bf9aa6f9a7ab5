"""Peers for storage commitment that another program's code plays: a PACS that is asked, and one that reports."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.presentation import build_role

from scp.association.requesting import Peer
from tests.support.network import free_port

PUSH_MODEL = "1.2.840.10008.1.20.1"
INSTANCE = "1.2.840.10008.1.20.1.1"

Objects = list[tuple[str, str]]


def event_information(transaction_uid: str, committed: Objects, failed: dict[tuple[str, str], int]) -> Dataset:
    """Return a report as pydicom has it."""
    report = Dataset()
    report.TransactionUID = transaction_uid
    report.ReferencedSOPSequence = [_item(*each) for each in committed]
    report.FailedSOPSequence = [_item(*each) for each in failed]
    for item, reason in zip(report.FailedSOPSequence, failed.values(), strict=True):
        item.FailureReason = reason
    return report


def report(
    port: int,
    information: Dataset | None,
    event_type: int = 1,
    *,
    calling: str = "PACS",
    role: tuple[bool, bool] | None = (False, True),
    instance: str = INSTANCE,
) -> int | None:
    """Report as a PACS does, on an association of its own; return the status, None where it gets no context."""
    roles: Any = [] if role is None else [build_role(PUSH_MODEL, scu_role=role[0], scp_role=role[1])]
    entity = AE(calling)
    entity.add_requested_context(PUSH_MODEL, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
    association = entity.associate("127.0.0.1", port, ae_title="HILUM", ext_neg=roles)
    if not association.accepted_contexts:
        if association.is_established:
            association.release()
        return None
    for context in association.accepted_contexts:
        context._as_scp = True  # where no role was spoken of, it reports all the same
    status, _ = association.send_n_event_report(information, event_type, PUSH_MODEL, instance)
    association.release()
    return int(status.Status)


@dataclass
class CommitmentPeer:
    """A node that is asked to commit itself: what it was asked, and how it answers.

    Parameters
    ----------
    status
        Of the N-ACTION response.
    reports
        What it reports on the same association, after its response; None: nothing.
    """

    ae_title: str
    port: int = 0
    status: int = 0x0000
    reports: Callable[[Dataset], tuple[Dataset, int]] | None = None
    asked: list[Dataset] = field(default_factory=list)
    statuses: list[int | None] = field(default_factory=list)
    reported: list[tuple[int, Dataset]] = field(default_factory=list)
    roles: list[tuple[bool, bool]] = field(default_factory=list)
    answers: int = 0x0000

    @property
    def peer(self) -> Peer:
        """The node as a peer to talk to."""
        return Peer("pacs", self.ae_title, "127.0.0.1", self.port)

    def on_action(self, event: evt.Event) -> tuple[int, None]:
        """Answer a request, and report where it is to be on the same association."""
        self.asked.append(event.action_information)
        if self.reports is not None and self.status == 0:
            threading.Thread(target=self._report, args=(event.assoc, self.asked[-1])).start()
        return self.status, None

    def on_event_report(self, event: evt.Event) -> tuple[int, None]:
        """Take a report, as a modality does that asked."""
        self.reported.append((event.event_type or 0, event.event_information))
        roles = event.assoc.requestor.role_selection.values()
        self.roles += [(bool(role.scu_role), bool(role.scp_role)) for role in roles]
        return self.answers, None

    def _report(self, association: Any, information: Dataset) -> None:  # noqa: ANN401 - pynetdicom's
        assert self.reports is not None
        dataset, event_type = self.reports(information)
        status, _ = association.send_n_event_report(dataset, event_type, PUSH_MODEL, INSTANCE)
        self.statuses.append(status.get("Status"))


@contextmanager
def commitment_peer(
    ae_title: str = "PACS",
    *,
    offers: bool = True,
    stores: Sequence[str] = (),
    port: int | None = None,
    **behaviour: Any,  # noqa: ANN401
) -> Iterator[CommitmentPeer]:
    """Run a node that offers storage commitment in both roles, unless not `offers`, and stores some classes."""
    entity = AE(ae_title)
    entity.add_supported_context("1.2.840.10008.1.1")
    if offers:
        syntaxes = [ImplicitVRLittleEndian, ExplicitVRLittleEndian]
        entity.add_supported_context(PUSH_MODEL, syntaxes, scu_role=True, scp_role=True)
    for sop_class_uid in stores:
        entity.add_supported_context(sop_class_uid)
    node = CommitmentPeer(ae_title, **behaviour)
    handlers: Any = [
        (evt.EVT_C_STORE, lambda _: 0x0000),
        (evt.EVT_N_ACTION, node.on_action),
        (evt.EVT_N_EVENT_REPORT, node.on_event_report),
    ]
    node.port = port or free_port()
    server: Any = entity.start_server(("127.0.0.1", node.port), block=False, evt_handlers=handlers)
    try:
        yield node
    finally:
        server.shutdown()


def _item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def everything_committed(information: Dataset) -> tuple[Dataset, int]:
    """Report that everything that was asked for is kept."""
    asked = [(each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID) for each in information.ReferencedSOPSequence]
    return event_information(information.TransactionUID, asked, {}), 1
