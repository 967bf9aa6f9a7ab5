"""``hilum doctor``: what would keep this node from working, found before the first patient."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from db.engine import Database
from db.files.filestore import FileStore
from db.images.index import list_set_aside
from db.lasting.dispensable import used_bytes
from hilum import retaining
from hilum.archives.earlier import without_archive
from hilum.config import Settings
from hilum.entries import PeerSettings
from hilum.models.measured import unmeasured
from hilum.network import peer_of
from hilum.ownership import complaint
from hilum.pausing import paused_now
from hilum.planning import read_cards
from hilum.working.leading import NODE, standing
from scp.association.requesting import accepted_classes, echo
from scp.association.tls import days_left
from scp.receiving.paths import why_not_fast
from scp.sending.services import Service, services_of
from study.errors import HilumError, StoreBusy
from study.forms import INSTEAD, SOP_CLASSES
from study.words import uid_name

_TORCH_SAYS = (
    "import torch; print(torch.__version__, "
    "torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} threads')"
)


_CERTIFICATE_DAYS: Final = 30  # so long before its end somebody is told
_RETRIEVALS: Final[dict[str, tuple[Service, ...]]] = {
    "auto": (Service.GET, Service.MOVE),
    "get": (Service.GET,),
    "move": (Service.MOVE,),
    "none": (),
}


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at."""

    subject: str
    good: bool
    words: str


def examine(settings: Settings) -> list[Checked]:
    """Return what was found, good and bad, in the order of importance."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("packages", _packages),
        ("store", lambda: _store(settings)),
        ("disk", lambda: _disk(settings)),
        ("database", lambda: _database(settings)),
        ("pauses", lambda: _pauses(settings)),
        ("retention", lambda: _retention(settings)),
        ("machines", lambda: _machines(settings)),
        ("port", lambda: _port(settings)),
        ("tls", lambda: _tls(settings)),
        ("reception", lambda: _reception(settings)),
    ]
    found = [Checked("configuration", True, f"valid; paths count from {settings.base_dir}")]
    found += [_checked(subject, check) for subject, check in checks]
    found += _models(settings)
    found.append(_checked("device", lambda: _device(settings)))
    found += examine_peers(settings)
    return found


class _Unwell(Exception):
    """What is wrong, in words with the remedy."""


def _checked(subject: str, check: Callable[[], str]) -> Checked:
    try:
        return Checked(subject, True, check())
    except _Unwell as error:
        return Checked(subject, False, str(error))
    except HilumError as error:
        return Checked(subject, False, error.words)
    except OSError as error:
        return Checked(subject, False, f"{error.strerror}: {error.filename}" if error.filename else str(error))


def _packages() -> str:
    foreign = complaint()
    if foreign:
        raise _Unwell(foreign)
    return "Hilum's own are found, no other distribution hides them"


def _store(settings: Settings) -> str:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    probe = settings.data_dir / ".doctor"
    probe.write_bytes(b"x")
    probe.unlink()
    return f"{settings.data_dir} can be written"


def _disk(settings: Settings) -> str:
    free = shutil.disk_usage(settings.data_dir).free / 1e6
    reserve = settings.node.disk_reserve_mb
    if free < reserve:
        raise _Unwell(f"{free:.0f} MB free, less than node.disk_reserve_mb = {reserve}: studies are answered A700")
    return f"{free:.0f} MB free, {reserve} MB kept in reserve"


def _database(settings: Settings) -> str:
    if settings.database.url == "sqlite" and not (settings.data_dir / "hilum.db").exists():
        return "not there yet; hilum serve makes it"
    database = Database.open(settings.database_url)
    try:
        database.check_schema()
        with database.reading() as uow:
            aside = len(list_set_aside(uow))
    finally:
        database.close()
    if aside:
        raise _Unwell(f"{aside} received file(s) were not understood; {settings.data_dir / 'aside'} has them and why")
    return "schema is current; every received file was understood"


def _pauses(settings: Settings) -> str:
    if settings.database.url == "sqlite" and not (settings.data_dir / "hilum.db").exists():
        return "none"
    database = Database.open(settings.database_url)
    try:
        database.check_schema()
        return "; ".join(paused_now(database)) or "none"
    finally:
        database.close()


def _machines(settings: Settings) -> str:
    """Tell who does what one process of the store does at a time, and who stands by."""
    if settings.is_on_one_machine:
        return f"{settings.machine} alone: several need PostgreSQL"
    database = Database.open(settings.database_url)
    try:
        return "; ".join(standing(database)) or f"no hilum serve works; this one is called {settings.machine}"
    finally:
        database.close()


def _retention(settings: Settings) -> str:
    limits = "; ".join(retaining.retention_words(settings)) or "off: nothing is removed"
    if settings.database.url == "sqlite" and not (settings.data_dir / "hilum.db").exists():
        return limits
    database = Database.open(settings.database_url)
    try:
        database.check_schema()
        with database.reading() as uow:
            used = used_bytes(uow)
            above = next(iter(retaining.problems(uow, settings)), None)
    finally:
        database.close()
    if above is not None:
        raise _Unwell(f"{above.reason.words} hilum retention tells it study by study")
    return f"{limits}; {retaining.amount(used)} of images and results are here"


def _port(settings: Settings) -> str:
    node, store = settings.node, FileStore(settings.data_dir)
    try:
        with store.lock() if settings.is_on_one_machine else store.lock_of(NODE, settings.machine):
            pass
    except StoreBusy:
        return f"{node.port}: a hilum serve runs on this data_dir"
    family = socket.AF_INET6 if ":" in node.bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((node.bind, node.port))
        except OSError as error:
            raise _Unwell(f"{node.bind}:{node.port}: {error.strerror}; choose another node.port") from None
    return f"{node.bind}:{node.port} is free"


def _tls(settings: Settings) -> str:
    if settings.identity is None:
        return "none: [tls] has no certificate"
    days = days_left(settings.identity)
    if days < _CERTIFICATE_DAYS:
        raise _Unwell(f"tls.certificate is valid for {days:.0f} more days; have it issued again before peers refuse it")
    listens = f"port {settings.tls.port}" if settings.tls.port else "no port, peers are called"
    return f"{listens}; our certificate is valid for {days:.0f} more days"


def _reception(settings: Settings) -> str:
    if not settings.node.fast_reception:
        return "slow: node.fast_reception = false"
    unverified = why_not_fast()
    if unverified:
        raise _Unwell(unverified)
    return "the fast way"


def _models(settings: Settings) -> Iterator[Checked]:
    """Tell of the models together, then of each what keeps it from running, or what could be said better of it."""
    try:
        cards = read_cards(settings).values()
    except HilumError as error:
        yield Checked("models", False, error.words)
        return
    if not cards:
        yield Checked("models", False, 'none; add [[models]] with name = "lung_ct", bundle = "builtin:lung_ct"')
        return
    named = (f"{card.name} {card.version} ({card.kind}, {', '.join(card.rule.modality)})" for card in cards)
    objections = [card.objection.words for card in cards if card.objection]
    yield Checked("models", not objections, ". ".join(["; ".join(named), *objections]))
    for card in cards:
        for hint in (*card.hints, *filter(None, [unmeasured(settings, card), without_archive(settings, card)])):
            yield Checked(f"model {card.name}", True, f"advice: {hint}")


def _device(settings: Settings) -> str:
    """Ask torch in a process of its own: only the runner loads it."""
    run = subprocess.run([sys.executable, "-P", "-c", _TORCH_SAYS], capture_output=True, text=True, check=False)
    if run.returncode:
        raise _Unwell(f"torch does not load: {run.stderr.strip().splitlines()[-1]}")
    found = run.stdout.strip()
    wanted = [device for device in settings.inference.devices if device.startswith("cuda")]
    if settings.inference.devices != "auto" and wanted and "CPU" in found:
        raise _Unwell(f"inference.devices names {', '.join(wanted)}, but torch sees no GPU ({found})")
    return f"torch {found}"


def examine_peers(settings: Settings) -> Iterator[Checked]:
    """Tell of each peer that can be called whether it answers, what it offers, and which results it takes."""
    if not settings.destinations:
        yield Checked("peers", False, 'no peer takes results; give one host, port and results = ["seg", "sr"]')
    for peer in settings.peers.values():
        if peer.host:
            answers = _checked(f"peer {peer.name}", lambda peer=peer: _echo(peer, settings))  # type: ignore[misc]
            yield answers
            if answers.good:
                yield from _services(peer, settings)
            if answers.good and peer.results:
                yield from _forms(peer, settings)


def _services(peer: PeerSettings, settings: Settings) -> Iterator[Checked]:
    """Tell which services a peer offers us, and which of those that the configuration counts on it does not."""
    subject = f"peer {peer.name} services"
    try:
        offered = services_of(peer_of(peer), settings.node.ae_title)
    except HilumError as error:
        yield Checked(subject, False, error.words)
        return
    of_interest = [service for service in Service if service is not Service.VERIFICATION]
    there = ", ".join(service.value for service in of_interest if service in offered)
    lacking = ", ".join(service.value for service in of_interest if service not in offered)
    yield Checked(subject, True, f"{there or 'none but C-ECHO'}{f'; no {lacking}' if lacking else ''}")
    for words in _lacks(peer, settings, offered):
        yield Checked(subject, False, words)


def _lacks(peer: PeerSettings, settings: Settings, offered: frozenset[Service]) -> Iterator[str]:
    """Yield what the configuration counts on and the peer does not offer, with the remedy."""
    ours = settings.node.ae_title
    if peer.name in settings.archives:
        askers = ", ".join(each.name for each in settings.peers.values() if each.archive == peer.name)
        if Service.FIND not in offered:
            yield f"takes no C-FIND, and is the archive of {askers}: allow {ours} to query there, or take archive out"
        wanted = _RETRIEVALS[peer.retrieve]
        if wanted and offered.isdisjoint(wanted):
            names = " nor ".join(service.value for service in wanted)
            yield (
                f"takes no {names}, and is the archive of {askers}: allow {ours} to retrieve there, or set "
                f'peers.{peer.name}.retrieve = "none": what a study lacks is not fetched then'
            )
    if peer.commitment and Service.STORAGE_COMMITMENT not in offered:
        yield (
            f"takes no storage commitment: allow it there for {ours}, or take commitment out of peers.{peer.name}: "
            "results would stay unproven"
        )


def _forms(peer: PeerSettings, settings: Settings) -> Iterator[Checked]:
    """Tell which of the forms that a peer is to be sent it will take, and what becomes of the others."""
    subject = f"peer {peer.name} results"
    forms = {*peer.results, *(INSTEAD[form] for form in peer.results if form in INSTEAD)}
    try:
        accepted = accepted_classes(peer_of(peer), settings.node.ae_title, sorted({SOP_CLASSES[f] for f in forms}))
    except HilumError as error:
        yield Checked(subject, False, error.words)
        return
    taken = [form for form in peer.results if SOP_CLASSES[form] in accepted]
    yield Checked(subject, bool(taken), f"takes {', '.join(taken) or 'none of them'}")
    for form in peer.results:
        if form in taken:
            continue
        instead = INSTEAD.get(form)
        if instead is not None and SOP_CLASSES[instead] in accepted:
            yield Checked(subject, True, f"refuses {form} ({uid_name(SOP_CLASSES[form])}); {instead} is sent instead")
        else:
            yield Checked(
                subject,
                False,
                f"refuses {form} ({uid_name(SOP_CLASSES[form])}): it would wait here for ever; allow that SOP Class "
                f"there, or take {form} out of peers.{peer.name}.results",
            )


def _echo(peer: PeerSettings, settings: Settings) -> str:
    seconds = echo(peer_of(peer), settings.node.ae_title)
    return f"{peer.ae_title} at {peer.host}:{peer.port} answers C-ECHO in {seconds * 1000:.0f} ms"
