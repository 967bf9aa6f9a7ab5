"""``hilum serve``: the whole node, or one role of it, in the foreground."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from db.engine import Database
from db.files.filestore import FileStore
from hilum.config import Settings
from hilum.journal import open_journal
from hilum.pausing import paused_now
from hilum.planning import read_cards
from hilum.processes import Station, StopSignal
from hilum.retaining import retention_words
from hilum.supervisor import ROLES, Supervisor
from hilum.terminal import say
from hilum.working.capacity import with_devices
from hilum.working.leading import sharing
from study.errors import ConfigError


def serve_all(settings: Settings) -> None:
    """Run all roles until SIGTERM or SIGINT; print where the node listens and what it serves.

    Raises
    ------
    StoreBusy
        If another node uses the data directory.
    ConfigError
        If the address can not be listened on.
    BundleInvalid
        If a model's bundle can not be read.
    """
    settings = with_devices(settings)
    cards = read_cards(settings)
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"node.data_dir: {settings.data_dir} can not be made: {error.strerror}") from None
    name = "supervisor" if settings.is_on_one_machine else f"{settings.machine}-supervisor"
    open_journal(settings.data_dir / "logs", name, settings.node.log_level)
    stop = StopSignal()
    stop.install()

    def tell(host: str, port: int) -> None:
        tls = f", over TLS on {settings.tls.port}" if settings.tls.port else ""
        say(f"{settings.node.ae_title} listens on {host}:{port}{tls}; store in {settings.data_dir}")
        if not settings.is_on_one_machine:
            say(f"this machine is {settings.machine}; hilum doctor tells what it does beside others")
        say(f"models: {', '.join(f'{card.name} {card.version}' for card in cards.values()) or 'none'}")
        say(f"models run on: {', '.join(settings.inference.devices)}")
        for card in cards.values():
            if card.objection is not None:
                say(f"{card.name} will not run: {card.objection.words}")
        for peer in settings.destinations:
            say(f"results ({', '.join(peer.results)}) go to {peer.name}: {peer.ae_title} at {peer.host}:{peer.port}")
        for name in settings.archives:
            archive = settings.peers[name]
            say(f"completeness is asked of {name}: {archive.ae_title} at {archive.host}:{archive.port}")
        for words in retention_words(settings):
            say(words)
        for words in _paused(settings):
            say(words)
        accepted = settings.known_calling_ae_titles
        say(f"accepts: {'any calling AE title' if accepted is None else ', '.join(sorted(accepted)) or 'nobody'}")

    Supervisor(settings, tell).run(stop)
    say("stopped")


def _paused(settings: Settings) -> list[str]:
    database = Database.open(settings.database_url)
    try:
        return paused_now(database)
    finally:
        database.close()


def serve_role(settings: Settings, role: str, worker: int | None = None) -> None:
    """Run one role until SIGTERM or SIGINT, beside a supervisor elsewhere that migrates the database.

    Parameters
    ----------
    worker
        Of a keeper: which of ``[inference] devices`` it is for, from 1.

    Raises
    ------
    ConfigError
        If there is no such role or worker, or the database is not one that several machines can share.
    """
    if role not in ROLES:
        raise ConfigError(f"--role {role}: unknown; the roles are {', '.join(ROLES)}")
    if role == "archivist" and not settings.archives:
        raise ConfigError("--role archivist: no peer names an archive to be asked; give one archive = NAME")
    if role == "retainer" and not settings.retention.is_on:
        raise ConfigError("--role retainer: [retention] sets neither days nor max_gb, so nothing is ever removed")
    if role == "keeper":
        settings = with_devices(settings)
        _demand_worker(settings, worker)
    stop = StopSignal()
    stop.install()
    station = Station(
        settings,
        stop,
        index=(worker or 1) - 1,
        announce=lambda facts: say(f"{role} is at work {facts or ''}".rstrip()),
        host=settings.machine,
    )
    open_journal(settings.data_dir / "logs", station.named(role), settings.node.log_level)
    with nullcontext() if role == "receiver" else _with_the_database(settings):
        importlib.import_module(f"hilum.roles.{role}").run(station)


@contextmanager
def _with_the_database(settings: Settings) -> Iterator[None]:
    """Work with a database of this program's schema, which nobody migrates meanwhile."""
    database = Database.open(settings.database_url)
    try:
        database.check_schema()
        store = FileStore(settings.data_dir)
        with nullcontext() if settings.is_on_one_machine else sharing(settings, store, database):
            yield
    finally:
        database.close()


def _demand_worker(settings: Settings, worker: int | None) -> None:
    devices = settings.inference.devices
    named = ", ".join(f"{number} ({device})" for number, device in enumerate(devices, start=1))
    if worker is None and len(devices) > 1:
        raise ConfigError(f"--role keeper: inference.devices has several; add --worker N, one of {named}, for each one")
    if worker is not None and not 1 <= worker <= len(devices):
        raise ConfigError(f"--worker {worker}: there is none in inference.devices; there are {named}")
