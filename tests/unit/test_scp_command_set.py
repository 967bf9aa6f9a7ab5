from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import UID, CTImageStorage
from pynetdicom.dimse_messages import (
    C_ECHO_RQ,
    C_STORE_RQ,
    N_ACTION_RQ,
    N_ACTION_RSP,
    N_EVENT_REPORT_RQ,
    N_EVENT_REPORT_RSP,
    DIMSEMessage,
)
from pynetdicom.dimse_primitives import C_ECHO, C_STORE, N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import decode, encode

from scp.receiving.command_set import CommandField, Request, read_request, write_response


def store_request(originator: str | None = None) -> bytes:
    primitive = C_STORE()
    primitive.MoveOriginatorApplicationEntityTitle = originator
    primitive.MessageID = 7
    primitive.Priority = 2
    primitive.AffectedSOPClassUID = CTImageStorage
    primitive.AffectedSOPInstanceUID = UID("1.2.3")
    primitive.DataSet = BytesIO(b"\0\0")
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    encoded = encode(message.command_set, True, True)
    assert encoded is not None
    return encoded


def echo_request() -> bytes:
    primitive = C_ECHO()
    primitive.MessageID = 9
    primitive.AffectedSOPClassUID = UID("1.2.840.10008.1.1")
    message = C_ECHO_RQ()
    message.primitive_to_message(primitive)
    encoded = encode(message.command_set, True, True)
    assert encoded is not None
    return encoded


def test_requests_are_read_as_another_program_writes_them() -> None:
    assert read_request(store_request()) == Request(
        CommandField.C_STORE_RQ,
        7,
        has_data_set=True,
        affected_sop_class_uid=CTImageStorage,
        affected_sop_instance_uid="1.2.3",
    )
    assert read_request(echo_request()) == Request(
        CommandField.C_ECHO_RQ,
        9,
        has_data_set=False,
        affected_sop_class_uid="1.2.840.10008.1.1",
        affected_sop_instance_uid="",
    )


def test_it_is_read_whose_move_an_object_is_part_of() -> None:
    assert read_request(store_request()).move_originator == ""
    assert read_request(store_request(originator="HILUM")).move_originator == "HILUM"


def test_responses_are_read_by_another_program() -> None:
    encoded = write_response(read_request(store_request()), 0xA700, "x" * 80)
    response = decode(BytesIO(encoded), True, True)
    assert response.CommandGroupLength == len(encoded) - 12
    assert response.CommandField == 0x8001
    assert response.MessageIDBeingRespondedTo == 7
    assert response.CommandDataSetType == 0x0101
    assert response.Status == 0xA700
    assert response.ErrorComment == "x" * 64
    assert response.AffectedSOPClassUID == CTImageStorage
    assert response.AffectedSOPInstanceUID == "1.2.3"


def test_success_has_no_comment() -> None:
    response = decode(BytesIO(write_response(read_request(echo_request()), 0)), True, True)
    assert "ErrorComment" not in response
    assert "AffectedSOPInstanceUID" not in response


def action_request() -> bytes:
    primitive = N_ACTION()
    primitive.MessageID = 11
    primitive.RequestedSOPClassUID = UID("1.2.840.10008.1.20.1")
    primitive.RequestedSOPInstanceUID = UID("1.2.840.10008.1.20.1.1")
    primitive.ActionTypeID = 1
    primitive.ActionInformation = BytesIO(b"\0\0")
    message = N_ACTION_RQ()
    message.primitive_to_message(primitive)
    encoded = encode(message.command_set, True, True)
    assert encoded is not None
    return encoded


def event_report() -> bytes:
    primitive = N_EVENT_REPORT()
    primitive.MessageID = 12
    primitive.AffectedSOPClassUID = UID("1.2.840.10008.1.20.1")
    primitive.AffectedSOPInstanceUID = UID("1.2.840.10008.1.20.1.1")
    primitive.EventTypeID = 2
    primitive.EventInformation = BytesIO(b"\0\0")
    message = N_EVENT_REPORT_RQ()
    message.primitive_to_message(primitive)
    encoded = encode(message.command_set, True, True)
    assert encoded is not None
    return encoded


@pytest.mark.parametrize(
    ("encoded", "field", "type_id", "answer", "type_keyword"),
    [
        (action_request(), CommandField.N_ACTION_RQ, 1, N_ACTION_RSP, "ActionTypeID"),
        (event_report(), CommandField.N_EVENT_REPORT_RQ, 2, N_EVENT_REPORT_RSP, "EventTypeID"),
    ],
)
def test_commitment_messages_are_read_and_answered_as_another_program_has_it(
    encoded: bytes, field: CommandField, type_id: int, answer: type[DIMSEMessage], type_keyword: str
) -> None:
    request = read_request(encoded)
    assert (request.command_field, request.has_data_set, request.type_id) == (field, True, type_id)
    assert request.affected_sop_class_uid == "1.2.840.10008.1.20.1"
    assert request.affected_sop_instance_uid == "1.2.840.10008.1.20.1.1"
    message = answer()
    message.command_set = decode(BytesIO(write_response(request, 0x0110, "Unknown")), True, True)
    response: Any = message.message_to_primitive()
    assert (response.Status, response.MessageIDBeingRespondedTo) == (0x0110, request.message_id)
    assert response.AffectedSOPInstanceUID == "1.2.840.10008.1.20.1.1"
    assert getattr(response, type_keyword) == type_id


@pytest.mark.parametrize("length", range(0, 100, 3))
def test_a_cut_command_set_is_no_command_set(length: int) -> None:
    with pytest.raises(ValueError, match="command set"):
        read_request(store_request()[:length])


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_a_request_or_a_value_error(encoded: bytes) -> None:
    try:
        read_request(encoded)
    except ValueError:
        return
