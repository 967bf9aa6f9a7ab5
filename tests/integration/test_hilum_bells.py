"""From the last image to the PACS each role is woken by the one before it: here nobody looks without being rung for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hilum.bells import Belfry, Bells, Ear
from hilum.processes import Station, StopSignal
from hilum.roles import receiver
from hilum.roles.indexer import Indexer
from hilum.roles.keeper import Keeper
from hilum.roles.sender import Courier
from hilum.working.wire import Answer
from scp.association.requesting import Peer
from scp.sending.sender import send_files
from study.states import StudyState
from tests.support.network import wait_until
from tests.support.outages import Pacs, Site, site
from tests.support.series import save_series

NEVER = 60.0  # as long as no test lasts: what ends a wait before is a ring


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, tmp_path / "var") as made:
        yield made


@pytest.fixture
def belfry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Belfry]:
    monkeypatch.setattr("hilum.bells.UNRUNG_SECONDS", NEVER)
    with Belfry((role, 0) for role in ("indexer", "archivist", "keeper", "sender")) as made:
        yield made


def bells_of(belfry: Belfry, role: str) -> Bells:
    return Bells.inherited(belfry.descriptors(role, 0), everybody_rings=True)


def listener(belfry: Belfry, role: str) -> Ear:
    """Return an ear after its first wait, which is none."""
    ear = bells_of(belfry, role).ear(StopSignal())
    ear.wait()
    return ear


def is_woken(ear: Ear) -> bool:
    started = time.monotonic()
    ear.wait()
    return time.monotonic() - started < NEVER / 2


def test_a_receiver_rings_for_the_indexer_once_an_object_is_stored(here: Site, belfry: Belfry) -> None:
    indexer, stop = listener(belfry, "indexer"), StopSignal()
    facts: dict[str, Any] = {}
    settings = here.settings.model_copy(
        update={"node": here.settings.node.model_copy(update={"bind": "127.0.0.1", "port": 0, "accept": "any"})}
    )
    station = Station(settings, stop, announce=facts.update, bells=bells_of(belfry, "receiver"))
    thread = threading.Thread(target=receiver.run, args=(station,))
    thread.start()
    try:
        wait_until(lambda: "port" in facts, 20, "the receiver")
        (path,) = save_series(here.images(1), here.settings.base_dir / "sent")
        (sent,) = send_files(Peer("node", "HILUM", "127.0.0.1", facts["port"]), "MODALITY", [path])
        assert sent.error is None
        assert is_woken(indexer)
    finally:
        stop.set()
        thread.join(30)


def test_the_indexer_rings_for_who_asks_archives_and_then_for_the_keeper_and_knows_when_to_look(
    here: Site, belfry: Belfry
) -> None:
    keeper, archivist = listener(belfry, "keeper"), listener(belfry, "archivist")
    indexer = Indexer(here.settings, here.database, here.store, bells=bells_of(belfry, "indexer"))
    indexer._listens_since -= 86_400
    here.receive(*here.images(3))
    indexer.turn()
    assert is_woken(archivist)
    assert indexer.looks_again_in is not None
    assert 0 < indexer.looks_again_in <= here.settings.study.quiet_seconds + 0.01
    wake = StopSignal()
    wake.wait(indexer.looks_again_in)  # as the role waits: not a moment longer
    indexer.turn()
    assert here.state() is StudyState.NOT_SELECTED  # no model is configured
    assert is_woken(keeper)
    indexer.turn()
    assert indexer.looks_again_in is None


def test_the_keeper_rings_for_the_sender_once_results_are_committed(here: Site, belfry: Belfry) -> None:
    sender = listener(belfry, "sender")
    job, made = here.lease()
    keeper = Keeper(here.settings, here.database, here.store, here.stop, bells=bells_of(belfry, "keeper"))
    keeper._commit(job, Answer(job.id, job.attempt, "done", tuple(made)), [])
    assert is_woken(sender)


def test_the_sender_delivers_at_a_ring_and_looks_again_when_a_delivery_falls_due(here: Site, belfry: Belfry) -> None:
    pacs = Pacs()
    peer = here.settings.peers["pacs"].model_copy(update={"port": pacs.port})
    courier = Courier(peer, here.settings, here.database, here.store, here.stop, bells=bells_of(belfry, "sender"))
    thread = threading.Thread(target=courier.run)
    thread.start()
    try:
        wait_until(lambda: bool(here.told("peer.not_asked")), 20, "the first look")
        here.owe()
        bells_of(belfry, "keeper").ring("sender")
        wait_until(lambda: bool(here.told("delivery.not_taken")), 20, "a try while the PACS is down")
        with pacs.running():
            wait_until(here.is_all_delivered, 20, "the delivery, without another ring")
    finally:
        here.stop.set()
        thread.join(30)
    record = here.record()
    assert record is not None
    events = [event for event in record.events if event.kind == "delivered"]
    times = [(event.numbers["sent_at"], event.numbers["answered_at"], event.at.isoformat()) for event in events]
    assert [list(each) == sorted(each) for each in times] == [True, True]
