"""Which presentation contexts an association proposes over which objects are to be fetched (PS3.4 C.5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydicom import uid

from scp.association.contexts import TRANSFER_SYNTAXES
from scp.sending.object_file import UNCOMPRESSED, Offer

STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"

USUAL_CLASSES: Final[tuple[str, ...]] = (
    str(uid.CTImageStorage),
    str(uid.MRImageStorage),
    str(uid.PositronEmissionTomographyImageStorage),
    str(uid.EnhancedCTImageStorage),
    str(uid.EnhancedMRImageStorage),
    str(uid.EnhancedPETImageStorage),
    str(uid.ComputedRadiographyImageStorage),
    str(uid.DigitalXRayImageStorageForPresentation),
    str(uid.SecondaryCaptureImageStorage),
    str(uid.NuclearMedicineImageStorage),
    str(uid.UltrasoundImageStorage),
)
"""Proposed where nobody knows what the objects are: classes of images that models read."""

_MOST_CONTEXTS = 128  # PS3.8 9.3.2.2

# Where there is no room for every Transfer Syntax, those that archives keep images in.
_LIKELY = (
    *UNCOMPRESSED,
    *(str(uid.JPEGLosslessSV1), str(uid.JPEG2000Lossless), str(uid.JPEGLSLossless), str(uid.RLELossless)),
    *(str(uid.JPEG2000), str(uid.JPEGBaseline8Bit), str(uid.JPEGLSNearLossless), str(uid.HTJ2KLossless)),
)
_IN_ORDER = tuple(dict.fromkeys((*_LIKELY, *TRANSFER_SYNTAXES)))


def query_offers(*sop_class_uids: str) -> tuple[Offer, ...]:
    """Return the contexts in which requests of these SOP Classes go."""
    return tuple(Offer(sop_class_uid, syntax) for sop_class_uid in sop_class_uids for syntax in UNCOMPRESSED)


def storage_offers(sop_class_uids: Sequence[str], taken: int) -> tuple[Offer, ...]:
    """Return a context for each class and Transfer Syntax, so that an archive can send every object as it keeps it.

    Parameters
    ----------
    taken
        How many of the association's 128 contexts are needed for other things.
    """
    room = _MOST_CONTEXTS - taken
    classes = tuple(dict.fromkeys(sop_class_uids))[: room // len(UNCOMPRESSED)]
    syntaxes = _IN_ORDER[: room // len(classes)]
    return tuple(Offer(sop_class_uid, syntax) for sop_class_uid in classes for syntax in syntaxes)
