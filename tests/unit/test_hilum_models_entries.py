"""Entries of [[models]] in files as people write them: everything else stays, byte by byte."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum.models.entries import block, entries_of, with_entry, with_values
from study.errors import ConfigError

ENTRY = {"name": "toy", "bundle": "bundles/toy", "digest": "0" * 64}
LINES = block(ENTRY)

WITH_TABLES = """\
# The node of the ward.
[node]
port = 4242   # as agreed

[[models]]    # the first
name = "a"
bundle = 'x'  # its folder
digest = "old"
# deadline_seconds = 60

[models.select]
modality = "CT"
[[models.segments]]
value = 1
label = "Liver"  # of the upper abdomen

# --- who takes results ---
[[peers]]
name = "pacs"
"""

FILES = {
    "tables below the entry, then others": WITH_TABLES,
    "no models": "[node]\nport = 1\n# the end\n",
    "empty": "",
    "only comments": "# nothing yet\n",
    "no line end": '[[models]]\nname = "a"\nbundle = "x"\n[models.select]\nmodality = "CT"',
    "models apart": '[[models]]\nname = "a"\n\n# ps\n[[peers]]\nname = "p"\n[[models]]\nname = "b"\n[node]\nport = 1\n',
    "comment against the next header": '[[models]]\nname = "a"\n# peers\n[[peers]]\nname = "p"\n',
    "header in a text": '[[models]]\nname = "a"\ntarget = """\n[[peers]]\nname = "no"\n"""\n[node]\nport = 1\n',
    "header in a list": '[[models]]\nname = "a"\nslices = [\n  [1, 2],\n  [3, 4]\n]\n[node]\nport = 1\n',
    "indented, quoted header": '  [[ "models" ]]\n  name = "a"\n  [ models . "select" ]\n  modality = "CT"\n[node]\n',
    "inline and empty": "models = []  # none yet\n[node]\nport = 1\n",
    "inline": 'models = [{name = "a", bundle = "x"}]  # one\n[node]\nport = 1\n',
    "inline on several lines": 'models = [\n  {name = "a"}, # one\n]\n[node]\nport = 1\n',
}


def with_crlf(text: str) -> str:
    return text.replace("\n", "\r\n")


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
@pytest.mark.parametrize("ends", [str, with_crlf], ids=["LF", "CRLF"])
def test_an_entry_is_added_and_nothing_else_changes(text: str, ends: Any) -> None:  # noqa: ANN401 - a function of text
    before = ends(text)
    after = with_entry(before, ENTRY)
    assert entries_of(after) == [*entries_of(before), ENTRY]
    read = tomllib.loads(after)
    assert {key: value for key, value in read.items() if key != "models"} == {
        key: value for key, value in tomllib.loads(before).items() if key != "models"
    }
    kept = iter(after.splitlines())
    inline = before.startswith("models = [")
    assert inline or all(line in kept for line in before.splitlines())  # each line is there, in the same order
    if "\r" in before:
        assert after.count("\n") == after.count("\r\n")
    else:
        assert "\r" not in after


def test_an_entry_goes_behind_the_tables_of_the_last_one_and_before_the_next_ones_comment() -> None:
    after = with_entry(WITH_TABLES, ENTRY)
    above, below = WITH_TABLES.split("\n# --- who")
    assert after == f"{above}\n{LINES}\n# --- who{below}"


def test_an_entry_behind_which_a_header_follows_at_once_leaves_an_empty_line() -> None:
    after = with_entry('[[models]]\nname = "a"\n# peers\n[[peers]]\nname = "p"\n', ENTRY)
    assert after == f'[[models]]\nname = "a"\n\n{LINES}\n# peers\n[[peers]]\nname = "p"\n'


def test_a_comment_right_below_the_last_value_stays_with_it() -> None:
    after = with_entry('[[models]]\nname = "a"\n# title = "A"\n\n# peers\n[[peers]]\nname = "p"\n', ENTRY)
    assert after == f'[[models]]\nname = "a"\n# title = "A"\n\n{LINES}\n# peers\n[[peers]]\nname = "p"\n'


def test_a_file_without_models_gets_the_entry_at_its_end() -> None:
    assert with_entry("[node]\nport = 1", ENTRY) == f"[node]\nport = 1\n\n{LINES}"
    assert with_entry("", ENTRY) == LINES


def test_an_inline_list_keeps_its_comment() -> None:
    after = with_entry("models = []  # none yet\n", ENTRY)
    assert after.startswith("models = [{name = ")
    assert after.endswith("]  # none yet\n")


def test_values_are_replaced_and_the_entry_keeps_its_other_keys_tables_and_comments() -> None:
    after = with_values(WITH_TABLES, "a", {"bundle": "y", "digest": "new"})
    assert after == WITH_TABLES.replace("'x'", '"y"').replace('"old"', '"new"')


def test_a_value_that_is_the_same_already_keeps_its_quotes() -> None:
    assert with_values(WITH_TABLES, "a", {"bundle": "x", "digest": "old"}) == WITH_TABLES


@pytest.mark.parametrize("ends", [str, with_crlf], ids=["LF", "CRLF"])
def test_a_key_that_was_missing_comes_into_the_entry_itself(ends: Any) -> None:  # noqa: ANN401
    before = ends(
        '[[models]]\nname = "a"\nbundle = "x"\n\n# next\n[models.select]\nmodality = "CT"\n[[models]]\nname = "b"'
    )
    after = with_values(before, "a", {"digest": "new"})
    assert after == before.replace('bundle = "x"', ends('bundle = "x"\ndigest = "new"'))


def test_an_entry_among_others_apart_is_replaced_where_it_stands() -> None:
    before = FILES["models apart"]
    after = with_values(before, "b", {"bundle": "y", "digest": "new"})
    assert after == before.replace('name = "b"\n', 'name = "b"\nbundle = "y"\ndigest = "new"\n')


def test_an_inline_entry_is_replaced_too() -> None:
    after = with_values(FILES["inline"], "a", {"bundle": "y", "digest": "new"})
    assert entries_of(after) == [{"name": "a", "bundle": "y", "digest": "new"}]
    assert "# one" in after


@pytest.mark.parametrize(
    ("text", "words"),
    [("[node", "is not valid TOML"), ("models = 1", "list of tables"), ("[models]\na = 1", "[[models]]")],
)
def test_a_file_that_can_not_be_understood_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_entry(text, ENTRY)
    assert words in caught.value.words


@given(name=st.text(max_size=30), bundle=st.text(min_size=1, max_size=60))
def test_any_text_survives_being_written(name: str, bundle: str) -> None:
    entry = {"name": name, "bundle": bundle}
    after = with_entry(WITH_TABLES, entry)
    assert entries_of(after)[-1] == entry
    assert entries_of(with_values(after, name, {"digest": "1"}))[-1] == entry | {"digest": "1"}
