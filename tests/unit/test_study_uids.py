"""UIDs and AE titles from the wire, the UIDs of results, and errors as values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from study.errors import MissingIdentity, NoEligibleSeries, Reason, StoreFailed, StudyRefused
from study.uids import ae_title, derive_uid, is_storable_uid, is_uid


@pytest.mark.parametrize("text", ["0", "1.2.840.10008.1.1", "2.25.0", "1." + "2" * 62, "1.0.3"])
def test_uids(text: str) -> None:
    assert is_uid(text)
    assert is_storable_uid(text)


@pytest.mark.parametrize("text", ["1.02.3", "00.1", "1.2.00"])
def test_leading_zeros_break_the_letter_and_are_stored(text: str) -> None:
    assert not is_uid(text)
    assert is_storable_uid(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "1.",
        ".1",
        "1..2",
        "1.2\n",
        " 1.2",
        "1.2 ",
        "1.2\0",
        "1.2/3",
        "../1",
        "1.2a",
        "-1.2",
        "1.²",
        "１.２",
        "1." + "2" * 63,
        "1\\2",
    ],
)
def test_no_uids(text: str) -> None:
    assert not is_uid(text)
    assert not is_storable_uid(text)


@given(st.text(alphabet="0123456789./\\\n\0a", max_size=70))
def test_storable_uid_is_one_harmless_component_of_a_path(text: str) -> None:
    if is_storable_uid(text):
        assert 1 <= len(text) <= 64
        assert set(text) <= set("0123456789.")
        assert ".." not in text
        assert not text.startswith(".")
    assert is_storable_uid(text) or not is_uid(text)


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=4))
def test_derived_uid_is_valid_and_always_the_same(parts: list[str]) -> None:
    uid = derive_uid(*parts)
    assert uid == derive_uid(*parts)
    assert is_uid(uid)
    assert UID(uid).is_valid
    assert uid.startswith("2.25.")


def test_derived_uid_never_changes_between_versions() -> None:
    """Stored results and retries depend on it: a change here duplicates every result at every site."""
    assert derive_uid("a", "b") == "2.25.80570676777572407028920762629207645290"


def test_derived_uid_depends_on_every_part_and_on_where_it_ends() -> None:
    assert (
        len({derive_uid(*parts) for parts in [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("c", "ab"), ()]}) == 6
    )


@pytest.mark.parametrize(
    ("text", "title"),
    [("HILUM", "HILUM"), ("  HILUM ", "HILUM"), ("A", "A"), ("A B-c_1", "A B-c_1"), (" " + "X" * 16 + " ", "X" * 16)],
)
def test_ae_title(text: str, title: str) -> None:
    assert ae_title(text) == title


@pytest.mark.parametrize("text", ["", "   ", "X" * 17, "A\\B", "A\nB", "A\tB", "A\0", "\x7f", "RÖNTGEN", "HILUM\n"])
def test_no_ae_title(text: str) -> None:
    with pytest.raises(ValueError, match="an AE title has"):
        ae_title(text)


def test_refusal_keeps_every_reason_and_the_first_one_leads() -> None:
    refused = StudyRefused([Reason("A", "a.", {"mm": 1, "n": 2}), Reason("B", "b.", {"mm": 9, "degrees": 3})])
    assert refused.reason == Reason("A", "a. b.", {"mm": 1, "n": 2, "degrees": 3})
    assert [reason.numbers["mm"] for reason in refused.reasons] == [1, 9]
    assert not refused.transient


def test_refusal_from_words_carries_its_class_code() -> None:
    refused = NoEligibleSeries("Nothing fits.", {"series": 3})
    assert refused.reasons == (refused.reason,)
    assert refused.reason == Reason("NoEligibleSeries", "Nothing fits.", {"series": 3})
    assert StudyRefused([]).reason.code == "StudyRefused"


def test_errors_speak_by_default() -> None:
    assert MissingIdentity().words
    assert not MissingIdentity().transient
    error = StoreFailed("The peer refused.", permanent=True, status=0xA900)
    assert (error.code, error.transient, error.permanent, error.status) == ("StoreFailed", True, True, 0xA900)
