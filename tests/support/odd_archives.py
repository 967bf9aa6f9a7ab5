"""Archives of the tests' own: they answer what a test has them answer, be it true or not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import ThreadedAssociationServer

from scp.association.requesting import Peer
from tests.support.network import wait_until

Handler = Callable[[evt.Event], Any]


@dataclass
class OddArchive:
    """An archive that runs, and what came of its associations."""

    peer: Peer
    events: list[str] = field(default_factory=list)

    @property
    def is_released(self) -> bool:
        """Wait for the end of an association, and tell whether all that ended were released."""
        wait_until(lambda: bool(self.events), 5, "the end of the association")
        return set(self.events) == {"released"}


@contextmanager
def odd_archive(
    classes: Iterable[str | PresentationContext], handlers: Sequence[evt.EventHandlerType], **attributes: object
) -> Iterator[OddArchive]:
    """Run an archive called ODD that supports these SOP Classes (or contexts) and answers by these handlers.

    Parameters
    ----------
    attributes
        Of pynetdicom's application entity, such as ``maximum_pdu_size``.
    """
    entity = ApplicationEntity("ODD")
    for name, value in attributes.items():
        setattr(entity, name, value)
    for given in classes:
        context = build_context(given) if isinstance(given, str) else given
        assert context.abstract_syntax is not None
        entity.add_supported_context(
            context.abstract_syntax, [*context.transfer_syntax], scu_role=context.scu_role, scp_role=context.scp_role
        )
    events: list[str] = []
    watching = [
        (evt.EVT_RELEASED, lambda _event: events.append("released")),
        (evt.EVT_ABORTED, lambda _event: events.append("aborted")),
    ]
    server = entity.make_server(
        ("127.0.0.1", 0), evt_handlers=[*handlers, *watching], server_class=ThreadedAssociationServer
    )
    entity._servers.append(server)
    # As pynetdicom's start_server, but it ends at once when it is told to
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield OddArchive(Peer("odd", "ODD", "127.0.0.1", server.server_address[1]), events)
    finally:
        server.shutdown()


def answering(matches: Iterable[Dataset], last: int = 0x0000) -> Handler:
    """Return a C-FIND handler that gives these matches, whatever is asked."""

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for match in matches:
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, match
        yield last, None

    return find


def raw_answer(event: evt.Event, identifier: bytes, *, message_id: int | None = None) -> None:
    """Send a pending response to a C-FIND with these bytes as its identifier."""
    assert isinstance(event.request, C_FIND)
    response = C_FIND()
    response.MessageIDBeingRespondedTo = event.request.MessageID if message_id is None else message_id
    response.AffectedSOPClassUID = event.request.AffectedSOPClassUID
    response.Status = 0xFF00
    response.Identifier = BytesIO(identifier)
    event.assoc.dimse.send_msg(response, event.context.context_id)


def raw_bytes(event: evt.Event, sent: bytes) -> None:
    """Send these bytes, whatever the protocol says."""
    assert event.assoc.dul.socket is not None
    event.assoc.dul.socket.send(sent)


def cut_off(event: evt.Event) -> None:
    """Close the connection without a word."""
    assert event.assoc.dul.socket is not None
    event.assoc.dul.socket._shutdown_socket()
