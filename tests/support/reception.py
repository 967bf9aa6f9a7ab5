"""The half of a node that comes before any model runs, in this process: receiver, indexer and archivist."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from pydicom.dataset import Dataset

from db.complete import inquiries
from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import snapshot
from db.overview.queries import study_record
from hilum.archives import completing
from hilum.config import Settings
from hilum.planning import read_cards
from hilum.processes import StopSignal
from hilum.roles.archivist import works_for
from hilum.roles.indexer import Indexer
from scp.association.requesting import Peer, Timeouts
from scp.sending.sender import send_files
from study.entities import Event, StudyRecord
from study.inquiry import Inquiry
from tests.support.network import running_receiver, wait_until
from tests.support.series import save_series


class Reception:
    """What has come in, and what became of it."""

    def __init__(self, settings: Settings, port: int) -> None:
        self.settings = settings
        self.database = Database.open(settings.database_url)
        self.peer = Peer("node", settings.node.ae_title, "127.0.0.1", port)

    def send(self, images: Sequence[Dataset], *, calling: str = "MODALITY") -> None:
        """Send images to the node."""
        send_to(self.peer, images, self.settings.data_dir.parent / "sent", calling=calling)

    def record(self, study: str) -> StudyRecord | None:
        """Return what is known of the study; None for nothing."""
        with self.database.reading() as uow:
            return study_record(uow, study)

    def events(self, study: str, kind: str) -> list[Event]:
        """Return what happened to the study, of one kind."""
        record = self.record(study)
        return [event for event in record.events if event.kind == kind] if record else []

    def wait_for(self, study: str, kind: str, count: int = 1, seconds: float = 20) -> Event:
        """Return the event of a kind that is the so-manieth, once it has happened."""
        try:
            wait_until(lambda: len(self.events(study, kind)) >= count, seconds, kind)
        except AssertionError as error:
            record = self.record(study)
            told = [(event.kind, event.words) for event in record.events] if record else []
            raise AssertionError(f"{error}; happened: {told}; inquiry: {self.inquiry(study)}") from None
        return self.events(study, kind)[count - 1]

    def inquiry(self, study: str) -> Inquiry | None:
        """Return what an archive was asked of the study."""
        with self.database.reading() as uow:
            return inquiries.of_study(uow, study)

    def last_received_at(self, study: str) -> datetime:
        """Return when the last image of the study was durable."""
        with self.database.reading() as uow:
            return snapshot(uow, study).last_received_at

    def here(self, study: str, *, fetched: bool | None = None) -> set[str]:
        """Return the SOP Instance UIDs that are here of a study; those that were fetched, or those that were not."""
        if self.record(study) is None:
            return set()
        with self.database.reading() as uow:
            instances = [each for group in snapshot(uow, study).series.values() for each in group]
        return {each.header.sop_instance_uid for each in instances if fetched in (None, each.fetched)}


@contextmanager
def receiving(
    settings: Settings, *, fetching: bool = True, timeouts: Timeouts | None = None, listens_for: float = 0
) -> Iterator[Reception]:
    """Run receiver, indexer and archivist in this process, until the block ends.

    Parameters
    ----------
    fetching
        Whether what is ordered is fetched.
    timeouts
        Time limits of questions to archives.
    listens_for
        How long the node seems to have listened before [s].
    """
    database = Database.open(settings.database_url)
    database.migrate()
    stop = StopSignal()
    indexer = Indexer(settings, database, FileStore(settings.data_dir))
    indexer._listens_since -= listens_for
    indexer.resume()
    works: list[Callable[[], None]] = [lambda: _keep_at(indexer.turn, stop)]
    for name in settings.archives:
        fetch, *ask = works_for(settings.peers[name], settings, read_cards(settings), database, stop)
        works += [fetch, *ask] if fetching else ask
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    usual = completing.TIMEOUTS
    with ExitStack() as stack:
        stack.callback(database.close)
        stack.callback(setattr, completing, "TIMEOUTS", usual)
        if timeouts is not None:
            setattr(completing, "TIMEOUTS", timeouts)  # noqa: B010 - a constant of theirs
        receiver = stack.enter_context(
            running_receiver(settings.data_dir / "inbox" / "receiver-0", port=settings.node.port)
        )
        for thread in threads:
            thread.start()
        try:
            yield Reception(settings, receiver.port)
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)


def _keep_at(turn: Callable[[], None], stop: StopSignal) -> None:
    while not stop.wait(0.02):
        turn()


def send_to(peer: Peer, images: Sequence[Dataset], folder: Path, *, calling: str = "MODALITY") -> None:
    """Send images to a peer, and make sure that it stored each."""
    outcomes = list(send_files(peer, calling, save_series(images, folder)))
    assert [outcome.error for outcome in outcomes] == [None] * len(images)
