"""Who the node says it is on the network and in files that it writes (PS3.7 D.3.3.2, PS3.10 7.1)."""

from __future__ import annotations

from typing import Final

from study.uids import derive_uid

IMPLEMENTATION_CLASS_UID: Final = derive_uid("Hilum", "Implementation Class UID")
IMPLEMENTATION_VERSION_NAME: Final = "HILUM_0.1"

FETCHED_CREATOR_UID: Final = derive_uid("Hilum", "Private Information Creator")
"""Private Information Creator UID (0002,0100) of what the node notes in files that it receives."""
FETCHED: Final = b"FETCHED "
"""Private Information (0002,0102) of a file that came because the node asked for it."""
