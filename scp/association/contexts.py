"""Which presentation contexts the node accepts: every storage SOP Class, every Transfer Syntax, in its own order.

An acceptor may choose any of the Transfer Syntaxes proposed for a context (PS3.8 7.1.1.14). The node takes the first of
its own list: what every program reads, then what loses nothing, then the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pynetdicom import sop_class
from pynetdicom.presentation import PresentationContext, build_context

VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model."""

_NAMED_STORAGE_BUT_NO_STORAGE_CLASS = frozenset(
    {
        "1.2.840.10008.1.3.10",  # Media Storage Directory: DICOMDIR, never sent
        "1.2.840.10008.1.20.1",  # Storage Commitment Push Model
        "1.2.840.10008.1.20.2",  # Storage Commitment Pull Model
    }
)

# Neither library lists all: pydicom's dictionary lacks the newest, pynetdicom's tables the retired ones.
STORAGE_SOP_CLASSES: Final[frozenset[str]] = frozenset(
    {
        entry
        for entry, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and entry not in _NAMED_STORAGE_BUT_NO_STORAGE_CLASS
    }
    | {str(entry) for entry in sop_class._STORAGE_CLASSES.values()}
    | {str(entry) for entry in sop_class._NON_PATIENT_OBJECT_CLASSES.values()}
    | {"1.2.840.10008.5.1.4.1.1.66.7"}  # Label Map Segmentation Storage
)

_UNCOMPRESSED = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.UID("1.2.840.10008.1.20"),  # Papyrus 3 Implicit VR Little Endian
)
_LOSSLESS = (
    uid.UID("1.2.840.10008.1.2.1.98"),  # Encapsulated Uncompressed Explicit VR Little Endian
    uid.UID("1.2.840.10008.1.2.8.1"),  # Deflated Image Frame Compression
    uid.RLELossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLossless,
    uid.UID("1.2.840.10008.1.2.4.58"),
    uid.UID("1.2.840.10008.1.2.4.65"),
    uid.UID("1.2.840.10008.1.2.4.66"),
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000MCLossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.UID("1.2.840.10008.1.2.4.110"),  # JPEG XL Lossless
    uid.UID("1.2.840.10008.1.2.4.111"),  # JPEG XL JPEG Recompression
)
_NO_DATA_SET_ON_THE_NETWORK = (
    "1.2.840.10008.1.2.6.1",  # RFC 2557 MIME encapsulation
    "1.2.840.10008.1.2.6.2",  # XML Encoding
    "1.2.840.10008.1.2.7.",  # SMPTE ST 2110: real-time video
)

TRANSFER_SYNTAXES: Final[tuple[str, ...]] = tuple(
    dict.fromkeys(
        [str(entry) for entry in (*_UNCOMPRESSED, *_LOSSLESS)]
        + [
            entry
            for entry, (_, kind, *_) in UID_dictionary.items()
            if kind == "Transfer Syntax" and not entry.startswith(_NO_DATA_SET_ON_THE_NETWORK)
        ]
    )
)
"""Every Transfer Syntax that a data set can travel in, the one that the node likes best first."""


def is_storable(sop_class_uid: str, *, accept_unknown_sop_classes: bool) -> bool:
    """Tell whether objects of this SOP Class are stored: the standard's, and unknown or private ones by choice."""
    if sop_class_uid in STORAGE_SOP_CLASSES:
        return True
    return accept_unknown_sop_classes and sop_class_uid not in UID_dictionary


@dataclass(frozen=True)
class Roles:
    """Which roles of storage commitment a peer may play on an association that it requests (PS3.7 D.3.3.4).

    Parameters
    ----------
    scu
        Whether it may ask us to commit ourselves.
    scp
        Whether it may report on what we asked of it.
    """

    scu: bool = False
    scp: bool = False


def supported_contexts(
    proposed: Iterable[PresentationContext], *, accept_unknown_sop_classes: bool, commitment: Roles | None = None
) -> list[PresentationContext]:
    """Return what the node supports of `proposed`, as the acceptor's list for the negotiation.

    A peer that may report and proposes no role, where it should propose that of the SCP, is taken all the same.

    The list is made for each association: the lists of all SOP Classes and Transfer Syntaxes would take milliseconds
    to copy and validate, and unknown SOP Classes cannot be listed in advance.
    """
    offered: dict[str, set[str]] = {}
    for context in proposed:
        offered.setdefault(str(context.abstract_syntax), set()).update(map(str, context.transfer_syntax))
    supported = []
    roles = commitment or Roles()
    for abstract_syntax, transfer_syntaxes in offered.items():
        if abstract_syntax == VERIFICATION:
            ours = [str(uid.ExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian)]
        elif abstract_syntax == STORAGE_COMMITMENT and (roles.scu or roles.scp):
            ours = [str(uid.ExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian)]
            supported.append(build_context(abstract_syntax, ours))
            supported[-1].scu_role, supported[-1].scp_role = roles.scu, roles.scp
            continue
        elif is_storable(abstract_syntax, accept_unknown_sop_classes=accept_unknown_sop_classes):
            ours = [syntax for syntax in TRANSFER_SYNTAXES if syntax in transfer_syntaxes]
        else:
            continue
        # Without a match the context is still listed, so that the answer blames the Transfer Syntax (PS3.8 9.3.3.2).
        supported.append(build_context(abstract_syntax, ours or [str(uid.ExplicitVRLittleEndian)]))
    return supported
