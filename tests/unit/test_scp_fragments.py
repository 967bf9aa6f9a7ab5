"""What pynetdicom is given of the fragments of one association, and how much is kept of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from scp.association.bounded_layer import ProtocolError
from scp.receiving.fragments import Fragments, Room
from scp.receiving.inbox import Inbox
from scp.receiving.incoming_object import AcceptedContext, IncomingObject, Parties
from scp.receiving.rules import Rules
from tests.support.conversation import store_command

CONTEXTS = {1: AcceptedContext(CTImageStorage, ExplicitVRLittleEndian)}
COMMAND, PART, LAST = b"\x03" + store_command("1.2.3"), b"\x00" + bytes(99), b"\x02" + bytes(99)


@pytest.fixture
def rules(tmp_path: Path) -> Iterator[Rules]:
    inbox = Inbox(tmp_path, 0)
    parties = Parties("SCU", "HILUM", "127.0.0.1")
    yield Rules(parties=parties, inbox=inbox, accept_unknown_sop_classes=True, on_event=lambda _name, _told: None)
    inbox.close()


def refusal_of(fragments: Fragments) -> tuple[int, str] | None:
    assert isinstance(fragments.incoming, IncomingObject)
    return fragments.incoming.outcome if fragments.incoming.refusal else None


def test_a_message_goes_on_as_it_came(rules: Rules) -> None:
    fragments = Fragments(CONTEXTS, rules, Room())
    assert fragments.between_messages
    for pdv, is_last in ((COMMAND, False), (PART, False), (LAST, True)):
        assert fragments.admit(1, pdv) == (pdv, is_last)
        assert not fragments.between_messages
    assert refusal_of(fragments) is None
    assert fragments.kept == len(PART[1:]) + len(LAST[1:])
    fragments.next_message()
    assert fragments.between_messages


@pytest.mark.parametrize("pdv", [PART, LAST, b"\x03" + bytes(20_000)])
def test_what_is_out_of_order_ends_the_association(rules: Rules, pdv: bytes) -> None:
    with pytest.raises(ProtocolError):
        Fragments(CONTEXTS, rules, Room()).admit(1, pdv)


def test_of_what_is_refused_nothing_is_kept(rules: Rules) -> None:
    room = Room(0)
    fragments = Fragments(CONTEXTS, rules, room)
    fragments.admit(1, b"\x03" + store_command("1.2.3."))
    assert refusal_of(fragments) == (0xC000, "The command names no valid SOP Class or Instance UID.")
    assert fragments.admit(1, PART) == (b"\x00", False)
    assert fragments.admit(1, LAST) == (b"\x02", True)


def test_all_associations_share_the_room(rules: Rules) -> None:
    room = Room(2 * len(PART[1:]))
    first, second = (Fragments(CONTEXTS, rules, room) for _ in range(2))
    for fragments in (first, second):
        fragments.admit(1, COMMAND)
        assert fragments.admit(1, PART) == (PART, False)
    assert second.admit(1, PART) == (b"\x00", False)
    assert refusal_of(second) == (0xA700, "Out of memory; send it again later.")
    first.next_message()  # gives its room back; what was refused stays so
    assert second.admit(1, LAST) == (b"\x02", True)
    second.next_message()
    for pdv in (COMMAND, PART, PART):
        assert second.admit(1, pdv) == (pdv, False)
    assert refusal_of(second) is None
    second.admit(1, PART)
    assert refusal_of(second) == (0xA700, "Too large without node.fast_reception.")
