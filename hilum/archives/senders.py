"""Which archive is asked of whose studies, by the configuration."""

from __future__ import annotations

from collections.abc import Collection

from db.complete.inquiries import Asked
from hilum.config import Settings
from hilum.entries import PeerSettings
from study.asking import Terms


def asked(settings: Settings) -> Asked:
    """Return which archive is asked of whose studies, and whose are not sent for analysis."""
    stored_only = frozenset(peer.ae_title for peer in settings.peers.values() if not peer.analyse)
    return Asked(settings.archives, stored_only)


def terms(settings: Settings, archive: PeerSettings, calling_ae_titles: Collection[str]) -> Terms:
    """Return how long is waited for what where the archive is asked of a study from these senders."""
    senders = [settings.sender(title) for title in calling_ae_titles]
    scopes = {sender.scope for sender in senders if sender is not None and sender.archive == archive.name}
    return Terms(
        settle_seconds=settings.study.settle_seconds,
        quiet_seconds=settings.study.quiet_seconds,
        can_fetch=archive.retrieve != "none",
        sent_only=scopes == {"sent"},
    )
