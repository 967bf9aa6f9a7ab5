"""Who the node says it is on the network and in files that it writes (PS3.7 D.3.3.2, PS3.10 7.1)."""

from __future__ import annotations

from typing import Final

from study.uids import derive_uid

IMPLEMENTATION_CLASS_UID: Final = derive_uid("Hilum", "Implementation Class UID")
IMPLEMENTATION_VERSION_NAME: Final = "HILUM_0.1"
