"""Write the first part of a DICOM file: preamble, prefix and File Meta Information (PS3.10 7.1)."""

from __future__ import annotations

import struct

from study.implementation import (
    FETCHED,
    FETCHED_CREATOR_UID,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
)

_SHORT_HEADER = struct.Struct("<HH2sH")
_VERSION = struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01"


def encode_file_meta(
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    sending_ae_title: str,
    receiving_ae_title: str,
    fetched: bool = False,
) -> bytes:
    """Return the bytes that stand before the encoded data set in a file.

    Sending and Receiving Application Entity Title (0002,0017), (0002,0018) keep who sent the object and to whom.

    Parameters
    ----------
    fetched
        Whether it came because we asked for it; the file says so in its Private Information (0002,0102).
    """
    body = _VERSION + b"".join(
        _element(element, vr, text)
        for element, vr, text in (
            (0x0002, b"UI", sop_class_uid),
            (0x0003, b"UI", sop_instance_uid),
            (0x0010, b"UI", transfer_syntax_uid),
            (0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            (0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            (0x0017, b"AE", sending_ae_title),
            (0x0018, b"AE", receiving_ae_title),
        )
    )
    if fetched:
        body += _element(0x0100, b"UI", FETCHED_CREATOR_UID)
        body += struct.pack("<HH2sHL", 0x0002, 0x0102, b"OB", 0, len(FETCHED)) + FETCHED
    group_length = _SHORT_HEADER.pack(0x0002, 0x0000, b"UL", 4) + struct.pack("<L", len(body))
    return b"\0" * 128 + b"DICM" + group_length + body


def _element(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return _SHORT_HEADER.pack(0x0002, element, vr, len(value)) + value
