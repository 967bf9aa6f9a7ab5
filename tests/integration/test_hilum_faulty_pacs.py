"""Results reach a PACS that breaks in every way that we know, once and in order, and no other PACS waits for it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydicom.uid import UID
from sqlalchemy import select, update

from db.delivery import acceptance
from db.delivery.outbox import Outgoing
from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import add_instances, generation
from db.overview.queries import study_record
from db.tables import DeliveryRow
from db.work import jobs
from db.work.revisions import close_study
from hilum.config import Settings
from hilum.processes import StopSignal
from hilum.roles.sender import Courier
from scp.association.requesting import Timeouts
from study.entities import Delivery, ResultObject
from study.forms import SOP_CLASSES, Acceptance, Form
from study.states import DeliveryState
from tests.support.databases import planned, results, stored
from tests.support.faulty_pacs import Fault, FaultyPacs
from tests.support.network import encoded_data_set, free_port, wait_until
from tests.support.series import ct_series, save_series

IMPATIENT = Timeouts(connection=2, negotiation=0.4, answer=0.8, network=0.4)
LARGE = 2200  # rows and columns: more than the kernel's buffers hold on the way


@dataclass
class Site:
    """A node that owes results, and its couriers."""

    settings: Settings
    database: Database
    store: FileStore
    stop: StopSignal = field(default_factory=StopSignal)
    made: dict[str, list[ResultObject]] = field(default_factory=dict)

    def courier(self, peer: str = "pacs", timeouts: Timeouts = IMPATIENT) -> Courier:
        return Courier(
            self.settings.peers[peer], self.settings, self.database, self.store, self.stop, timeouts=timeouts
        )

    def owe(self, study: str, size: int = 200) -> None:
        """Owe the SEG, of so many rows and columns, and the SR of a study to every peer."""
        datasets = [ct_series(np.full((1, n, n), 7), study_instance_uid=study)[0] for n in (size, 200)]
        for dataset, form in zip(datasets, (Form.SEG, Form.SR), strict=True):
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(SOP_CLASSES[form])
        paths = save_series(datasets, self.store.results_folder(study))
        made = [
            replace(
                result,
                sop_class_uid=str(dataset.SOPClassUID),
                sop_instance_uid=str(dataset.SOPInstanceUID),
                path=self.store.relative(path),
            )
            for result, dataset, path in zip(results(study), datasets, paths, strict=True)
        ]
        owed = [Outgoing(peer, n, result) for peer in self.settings.peers for n, result in enumerate(made)]
        images = [stored(1, study=study)]
        with self.database.writing() as uow:
            add_instances(uow, images)
            close_study(uow, study, [planned(images)], "", generation(uow, study))
            job = jobs.lease_job(uow, "keeper", 30)
            assert job is not None
            jobs.finish_job(uow, job.id, job.attempt, made, owed, {})
            uow.commit()
        self.made[study] = made

    def deliveries(self, peer: str = "pacs") -> list[Delivery]:
        found = []
        for study in self.made:
            with self.database.reading() as uow:
                record = study_record(uow, study)
            assert record is not None
            found += [each for each in record.deliveries if each.peer == peer]
        return found

    def holders(self) -> dict[int, str]:
        """Return who holds each delivery; "" where nobody does."""
        with self.database.reading() as uow:
            return {
                row.id: row.lease_owner or "" for row in uow.execute(select(DeliveryRow.id, DeliveryRow.lease_owner))
            }

    def is_all_delivered(self, peer: str = "pacs") -> bool:
        with self.database.reading() as uow:
            states = uow.execute(select(DeliveryRow.state).where(DeliveryRow.peer == peer)).scalars().all()
        return set(states) == {DeliveryState.DELIVERED.value}

    def has_asked(self) -> bool:
        """Tell whether the PACS has said which classes it takes: it is asked no more, and faults meet deliveries."""
        with self.database.reading() as uow:
            found = acceptance.known(uow, "pacs", self.settings.peers["pacs"].address)
        return found.get(SOP_CLASSES[Form.REJECTION]) is Acceptance.REFUSED

    def let_time_pass(self) -> None:
        with self.database.writing() as uow:
            uow.execute(update(DeliveryRow).values(next_attempt_at=uow.now()))
            uow.commit()

    @contextmanager
    def at_work(self, *couriers: Courier) -> Iterator[None]:
        """Have couriers at work, each in its thread as in the sender."""
        threads = [threading.Thread(target=courier.run) for courier in couriers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join(30)
            assert not any(thread.is_alive() for thread in threads)

    def assert_all_arrived(self, pacs: FaultyPacs) -> None:
        """Fail unless the peer holds every result, with the bytes of its file, and the SEG of each study was first."""
        held = pacs.first_arrivals()
        files = {each.sop_instance_uid: self.store.root / each.path for made in self.made.values() for each in made}
        assert held == {uid: encoded_data_set(path) for uid, path in files.items()}
        order = list(held)
        for seg, sr in self.made.values():
            assert order.index(seg.sop_instance_uid) < order.index(sr.sop_instance_uid)


@contextmanager
def site_with(folder: Path, ports: dict[str, int], **delivery: float) -> Iterator[Site]:
    quick = {"retry_seconds": 0.02, "retry_max_seconds": 0.1, "problem_retry_seconds": 0.2} | delivery
    peers = {
        name: {"name": name, "ae_title": "PACS", "host": "127.0.0.1", "port": port, "results": ["seg", "sr"]}
        for name, port in ports.items()
    }
    settings = Settings.model_validate({"base_dir": folder, "delivery": quick, "peers": peers})
    settings.data_dir.mkdir()
    database = Database.open(settings.database_url)
    database.migrate()
    try:
        yield Site(settings, database, FileStore(settings.data_dir))
    finally:
        database.close()


def test_all_results_arrive_once_and_in_order_whatever_the_pacs_does(tmp_path: Path) -> None:
    pacs = FaultyPacs()
    with site_with(tmp_path, {"pacs": pacs.port}) as site, site.at_work(site.courier()):
        site.owe("1.2.826.0.1.1")  # it is down
        wait_until(lambda: site.deliveries()[0].attempts > 1, what="two attempts")
        assert {each.reason.code for each in site.deliveries() if each.reason} == {"PeerUnreachable"}
        with pacs.running():
            wait_until(lambda: site.is_all_delivered() and site.has_asked(), what="what was owed while it was down")
            for number, fault in enumerate(Fault, start=2):
                pacs.script.append(fault)
                site.owe(f"1.2.826.0.1.{number}", LARGE if fault is Fault.STALLS else 200)
                wait_until(lambda: fault in pacs.met, what=fault.name)  # noqa: B023 - called here
            wait_until(site.is_all_delivered, what="all results")
            site.assert_all_arrived(pacs)
    arrived = [uid for uid, _ in pacs.arrivals]
    assert len(arrived) > len(set(arrived))  # what it forgot to answer for came again, and was the same


def test_faults_one_upon_the_other_change_nothing(tmp_path: Path) -> None:
    pacs = FaultyPacs()
    script = [Fault.BUSY, Fault.STRANGER, Fault.FULL, Fault.DROPS, Fault.FORGETS, Fault.CLOSES] * 2
    random.Random(7).shuffle(script)
    with site_with(tmp_path, {"pacs": pacs.port}) as site, pacs.running(), site.at_work(site.courier()):
        wait_until(site.has_asked, what="the question which classes it takes")
        pacs.script.extend(script)
        for number in range(1, 9):
            site.owe(f"1.2.826.0.1.{number}")
        wait_until(site.is_all_delivered, 20, "all results")
        site.assert_all_arrived(pacs)
    assert sorted(each.name for each in pacs.met) == sorted(each.name for each in script)


def test_a_report_waits_for_its_segmentation_while_the_association_is_rejected_for_good(tmp_path: Path) -> None:
    """What is rejected is the association, not the SEG: the SR is not to overtake it when the PACS knows us at last."""
    pacs = FaultyPacs()
    with site_with(tmp_path, {"pacs": pacs.port}, retry_seconds=1e-6, problem_retry_seconds=100) as site:
        site.owe("1.2.826.0.1.1")
        with pacs.running():
            pacs.script.append(Fault.STRANGER)
            courier = site.courier()
            assert courier.turn()
            assert [each.problem for each in site.deliveries()] == [True, False]
            assert not courier.turn()
            assert pacs.arrivals == []
            site.let_time_pass()
            assert courier.turn()
            assert site.is_all_delivered()
            site.assert_all_arrived(pacs)


def test_a_lease_that_is_lost_on_the_way_keeps_nothing_else(tmp_path: Path) -> None:
    """Another sender took an object over while the PACS was slow: the rest of the batch goes on, and so do we."""
    pacs = FaultyPacs()
    with site_with(tmp_path, {"pacs": pacs.port}) as site, pacs.running():
        for number in (1, 2):
            site.owe(f"1.2.826.0.1.{number}")
        pacs.script.append(Fault.SLOW)
        turn = threading.Thread(target=site.courier().turn)
        turn.start()
        wait_until(lambda: "" not in site.holders().values(), what="the leases")
        first = site.deliveries()[0].id
        with site.database.writing() as uow:
            uow.execute(update(DeliveryRow).where(DeliveryRow.id == first).values(lease_owner="another"))
            uow.commit()
        turn.join(20)
        holders = site.holders()
        assert holders.pop(first) == "another"
        assert set(holders.values()) == {""}


def test_a_dead_and_a_stalled_pacs_delay_no_other(tmp_path: Path) -> None:
    good, stalled = FaultyPacs(), FaultyPacs()
    ports = {"dead": free_port(), "stalled": stalled.port, "pacs": good.port}
    patient = Timeouts(negotiation=30, answer=30, network=30)
    with site_with(tmp_path, ports) as site:
        couriers = [site.courier(name, patient) for name in ports]
        for number in range(1, 6):
            site.owe(f"1.2.826.0.1.{number}")
        stalled.script.append(Fault.SILENT)
        with good.running(), site.at_work(*couriers), stalled.running():
            wait_until(lambda: Fault.SILENT in stalled.met, what="the stall")
            wait_until(site.is_all_delivered, 5, "the results at the one that works")  # far below 30 s
            assert not any(each.state is DeliveryState.DELIVERED for each in site.deliveries("stalled"))
            assert stalled.arrivals == []
            wait_until(lambda: site.deliveries("dead")[0].attempts > 0, what="an attempt at the dead one")
            site.assert_all_arrived(good)
