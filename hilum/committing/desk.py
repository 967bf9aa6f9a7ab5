"""Where storage commitment messages wait, and whose messages a receiver takes; without the database."""

from __future__ import annotations

from pathlib import Path

from hilum.bells import Bells
from hilum.committing.logs import writing_down
from hilum.config import Settings
from scp.commitments.commitment_desk import CommitmentDesk
from scp.commitments.spool import CommitmentSpool


def spool_folder(data_dir: Path) -> Path:
    """Return where storage commitment messages wait, below the data directory."""
    return data_dir / "commitment"


def desk_of(settings: Settings, bells: Bells | None = None) -> CommitmentDesk | None:
    """Return where a receiver takes storage commitment messages; None where no peer has anything to do with it."""
    asked = {peer.ae_title for peer in settings.peers.values() if peer.commitment}
    served = {peer.ae_title for peer in settings.peers.values() if peer.vouch}
    if not asked | served:
        return None
    spool = CommitmentSpool(spool_folder(settings.data_dir))
    return CommitmentDesk(spool, asked=asked, served=served, on_event=writing_down(bells or Bells()))
