from __future__ import annotations

from typing import Any, cast

import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import build_context, negotiate_as_acceptor

from scp.association.contexts import (
    STORAGE_COMMITMENT,
    STORAGE_SOP_CLASSES,
    TRANSFER_SYNTAXES,
    VERIFICATION,
    Roles,
    is_storable,
    supported_contexts,
)

PRIVATE = "1.2.826.0.1.3680043.10.999.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.mark.parametrize(
    "sop_class_uid",
    [
        CTImageStorage,
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
        "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
        "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D SR
        "1.2.840.10008.5.1.4.1.1.6",  # Ultrasound Image, retired
        "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol
    ],
)
def test_storage_sop_classes_are_storable(sop_class_uid: str) -> None:
    assert is_storable(sop_class_uid, accept_unknown_sop_classes=False)


def test_everything_that_pynetdicom_calls_storage_is_storable() -> None:
    assert {str(context.abstract_syntax) for context in AllStoragePresentationContexts} <= STORAGE_SOP_CLASSES


def test_unknown_sop_classes_are_a_choice_and_other_services_are_none() -> None:
    assert is_storable(PRIVATE, accept_unknown_sop_classes=True)
    assert not is_storable(PRIVATE, accept_unknown_sop_classes=False)
    assert not is_storable(STUDY_ROOT_FIND, accept_unknown_sop_classes=True)
    assert not is_storable("1.2.840.10008.1.20.1", accept_unknown_sop_classes=True)


def test_every_transfer_syntax_of_a_data_set_is_listed_once() -> None:
    of_the_standard = {uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"}
    assert len(set(TRANSFER_SYNTAXES)) == len(TRANSFER_SYNTAXES)
    assert {uid for uid in of_the_standard - set(TRANSFER_SYNTAXES) if not uid.startswith("1.2.840.10008.1.2.6")} == {
        uid for uid in of_the_standard if uid.startswith("1.2.840.10008.1.2.7")
    }


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ([ImplicitVRLittleEndian, ExplicitVRLittleEndian], ExplicitVRLittleEndian),
        ([DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian], ImplicitVRLittleEndian),
        ([JPEGBaseline8Bit, JPEGLSLossless, DeflatedExplicitVRLittleEndian], DeflatedExplicitVRLittleEndian),
        ([JPEG2000, JPEGBaseline8Bit, RLELossless], RLELossless),
        ([JPEG2000], JPEG2000),
    ],
)
@pytest.mark.parametrize("sop_class_uid", [CTImageStorage, PRIVATE])
def test_the_acceptors_order_decides(sop_class_uid: str, proposed: list[str], chosen: str) -> None:
    request = build_context(sop_class_uid, proposed)
    request.context_id = 1
    supported = supported_contexts([request], accept_unknown_sop_classes=True)
    (result,), _ = negotiate_as_acceptor([request], supported)
    assert (result.result, result.transfer_syntax) == (0, [chosen])


def test_what_is_not_taken_is_answered_with_its_reason() -> None:
    requests = [
        build_context(CTImageStorage, "1.2.3.4.5"),
        build_context(STUDY_ROOT_FIND, ExplicitVRLittleEndian),
        build_context(PRIVATE, ExplicitVRLittleEndian),
        build_context(VERIFICATION, ImplicitVRLittleEndian),
    ]
    for index, request in enumerate(requests):
        request.context_id = 2 * index + 1
    results, _ = negotiate_as_acceptor(requests, supported_contexts(requests, accept_unknown_sop_classes=False))
    assert [result.result for result in results] == [0x04, 0x03, 0x03, 0x00]


@pytest.mark.parametrize(
    ("ours", "proposed", "accepted", "answered"),
    [
        (Roles(), None, 0x03, None),
        (Roles(), (False, True), 0x03, None),
        (Roles(scp=True), (False, True), 0x00, (False, True)),  # reports to us, as PS3.4 J.3.3 has it
        (Roles(scp=True), None, 0x00, None),  # or without a word of its role
        (Roles(scp=True), (True, True), 0x00, (False, True)),
        (Roles(scp=True), (True, False), 0x01, None),  # may not ask us
        (Roles(scu=True), (True, False), 0x00, (True, False)),
        (Roles(scu=True), None, 0x00, None),
        (Roles(scu=True, scp=True), (True, True), 0x00, (True, True)),
        (Roles(scu=True, scp=True), (False, True), 0x00, (False, True)),
    ],
)
def test_storage_commitment_is_taken_in_the_roles_that_a_peer_may_play(
    ours: Roles, proposed: tuple[bool, bool] | None, accepted: int, answered: tuple[bool, bool] | None
) -> None:
    request = build_context(STORAGE_COMMITMENT, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
    request.context_id = 1
    supported = supported_contexts([request], accept_unknown_sop_classes=True, commitment=ours)
    roles = None if proposed is None else {UID(STORAGE_COMMITMENT): proposed}
    (result,), reply = negotiate_as_acceptor([request], supported, cast("Any", roles))
    assert result.result == accepted
    assert [(role.scu_role, role.scp_role) for role in reply] == ([] if answered is None else [answered])
