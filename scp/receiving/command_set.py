"""Read and write the DIMSE command sets of the requests that the node serves (PS3.7 9.1.1, 9.1.5, 10.1.1, 10.1.4, E.1).

A command set is a short data set in Implicit VR Little Endian. It comes from the wire before anything else is known of
an object, so it is read here without building a general data set: what does not fit is a `ValueError`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

LONGEST_COMMAND_SET: Final = 16384
"""A command set holds a dozen short elements; more bytes than this are no command set [bytes]."""

_NO_DATA_SET = 0x0101
_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")
LONGEST_COMMENT: Final = 64
"""Of an Error Comment (VR LO) [characters]."""

_AFFECTED_SOP_CLASS_UID = 0x0002
_REQUESTED_SOP_CLASS_UID = 0x0003
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
_COMMAND_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_ERROR_COMMENT = 0x0902
_AFFECTED_SOP_INSTANCE_UID = 0x1000
_REQUESTED_SOP_INSTANCE_UID = 0x1001
_EVENT_TYPE_ID = 0x1002
_MOVE_ORIGINATOR_AE_TITLE = 0x1030
_ACTION_TYPE_ID = 0x1008


class CommandField(IntEnum):
    """The requests that the node serves (PS3.7 E.1)."""

    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100
    N_ACTION_RQ = 0x0130


_TYPE_IDS: Final[dict[int, int]] = {
    CommandField.N_EVENT_REPORT_RQ: _EVENT_TYPE_ID,
    CommandField.N_ACTION_RQ: _ACTION_TYPE_ID,
}


@dataclass(frozen=True)
class Request:
    """A DIMSE request; `command_field` need not be one that the node knows.

    Parameters
    ----------
    affected_sop_class_uid, affected_sop_instance_uid
        Of an N-ACTION, those that it names as requested.
    type_id
        Event Type ID of an N-EVENT-REPORT, Action Type ID of an N-ACTION; 0 of others.
    move_originator
        Of a C-STORE, the AE title whose C-MOVE it is part of; "" where it is part of none.
    """

    command_field: int
    message_id: int
    has_data_set: bool
    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    type_id: int = 0
    move_originator: str = ""


def read_request(encoded: bytes | bytearray) -> Request:
    """Return the request that `encoded` holds.

    Raises
    ------
    ValueError
        If the bytes are no command set, or lack what every request has.
    """
    values = _elements(encoded)
    command_field = _number(values, _COMMAND_FIELD)
    names_requested = command_field == CommandField.N_ACTION_RQ
    type_id = _TYPE_IDS.get(command_field)
    return Request(
        command_field=command_field,
        message_id=_number(values, _MESSAGE_ID),
        has_data_set=_number(values, _COMMAND_DATA_SET_TYPE) != _NO_DATA_SET,
        affected_sop_class_uid=_uid(values, _REQUESTED_SOP_CLASS_UID if names_requested else _AFFECTED_SOP_CLASS_UID),
        affected_sop_instance_uid=_uid(
            values, _REQUESTED_SOP_INSTANCE_UID if names_requested else _AFFECTED_SOP_INSTANCE_UID
        ),
        type_id=0 if type_id is None else _number(values, type_id),
        move_originator=_ascii(values, _MOVE_ORIGINATOR_AE_TITLE).strip(" "),
    )


def write_response(request: Request, status: int, comment: str = "") -> bytes:
    """Return the encoded command set that answers `request` with `status`.

    Parameters
    ----------
    comment
        Error Comment (0000,0902), cut to its 64 characters; left out where empty.
    """
    elements = [
        (_AFFECTED_SOP_CLASS_UID, _padded(request.affected_sop_class_uid, "\0")),
        (_COMMAND_FIELD, _US.pack(request.command_field | 0x8000)),
        (_MESSAGE_ID_BEING_RESPONDED_TO, _US.pack(request.message_id)),
        (_COMMAND_DATA_SET_TYPE, _US.pack(_NO_DATA_SET)),
        (_STATUS, _US.pack(status)),
        (_ERROR_COMMENT, _padded(comment[:LONGEST_COMMENT], " ")),
        (_AFFECTED_SOP_INSTANCE_UID, _padded(request.affected_sop_instance_uid, "\0")),
    ]
    if request.command_field in _TYPE_IDS:
        elements.append((_TYPE_IDS[request.command_field], _US.pack(request.type_id)))
    body = b"".join(_ELEMENT.pack(0, element, len(value)) + value for element, value in elements if value)
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def _elements(encoded: bytes | bytearray) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    offset = 0
    while offset < len(encoded):
        if len(encoded) - offset < _ELEMENT.size:
            raise ValueError("the command set ends within an element")
        group, element, length = _ELEMENT.unpack_from(encoded, offset)
        offset += _ELEMENT.size
        if group != 0 or length > len(encoded) - offset:
            raise ValueError("the command set holds what no command set does")
        values[element] = bytes(encoded[offset : offset + length])
        offset += length
    return values


def _number(values: dict[int, bytes], element: int) -> int:
    value = values.get(element, b"")
    if len(value) != _US.size:
        raise ValueError(f"the command set has no usable (0000,{element:04X})")
    number: int = _US.unpack(value)[0]
    return number


def _uid(values: dict[int, bytes], element: int) -> str:
    # A UID is a few bytes of ASCII; anything else becomes text that no UID rule accepts.
    return _ascii(values, element)


def _ascii(values: dict[int, bytes], element: int) -> str:
    return values.get(element, b"").rstrip(b"\0 ").decode("ascii", errors="replace")


def _padded(text: str, padding: str) -> bytes:
    encoded = text.encode("ascii", errors="replace")
    return encoded + padding.encode() if len(encoded) % 2 else encoded
