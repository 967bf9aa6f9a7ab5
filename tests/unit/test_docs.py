"""The documents say what the code does, and lead to what exists."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import get_args

import pytest

from db.events import EventKind
from db.overview.problem import Kind
from hilum.config import Settings, load
from hilum.entries import ModelSettings
from inference.catalog import find_bundle, read_card
from inference.description import (
    ClassDescription,
    FindingDescription,
    NumberDescription,
    Priors,
    SegmentDescription,
    Select,
)
from scp.association.requesting import Timeouts
from scp.receiving.receiver import DEFAULT_MAX_PDU
from sr_writer import codes as writer_codes
from sr_writer.context import SERIES_NUMBERS
from sr_writer.region.areas import MOST_SLICES
from study import implementation
from study.codes import ATTENUATION, LAA_950, PERCENTILE_15, PRIVATE_SCHEME, VOLUME
from study.commitment import CommitmentState
from study.forms import SOP_CLASSES, Form
from study.inquiry import InquiryState
from study.searches import SearchState
from study.states import DeliveryState, JobState, StudyState
from tests.support.peers import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
CONFORMANCE = (REPOSITORY / "docs" / "conformance.md").read_text()
JSON = (REPOSITORY / "docs" / "json.md").read_text()
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text()
MODELS = (REPOSITORY / "docs" / "models.md").read_text()
LUNG_CT = (REPOSITORY / "docs" / "lung_ct.md").read_text()
LARGEST_PICTURE = 300_000


def links(page: Path) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [target.split("#")[0] for target in targets if not target.startswith(("http", "#"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


def test_pictures_are_small_and_carry_nothing_but_pixels() -> None:
    pictures = sorted((REPOSITORY / "docs" / "images").glob("*.png"))
    assert pictures
    for picture in pictures:
        content = picture.read_bytes()
        assert len(content) < LARGEST_PICTURE, picture.name
        assert not any(chunk in content for chunk in (b"tEXt", b"iTXt", b"zTXt", b"eXIf")), picture.name


STATES: list[tuple[str, type[StrEnum]]] = [
    ("study", StudyState),
    ("job", JobState),
    ("delivery", DeliveryState),
    ("inquiry", InquiryState),
    ("search for earlier studies", SearchState),
    ("commitment we asked for", CommitmentState),
]


@pytest.mark.parametrize(("of", "states"), STATES)
def test_every_state_has_somebody_who_moves_it_on(of: str, states: type[StrEnum]) -> None:
    table = OPERATIONS.partition("### Who moves each state on")[2].partition("\n\n")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    named = [state for what, state_names, *_ in rows if what == of for state in re.findall(r"`(\w+)`", state_names)]
    assert sorted(named) == sorted(states)
    assert all(len(row) == len(rows[0]) and row[2] for row in rows)


def test_every_kind_of_problem_is_explained() -> None:
    listed = OPERATIONS.partition("## What needs a person")[2].partition("###")[0]
    named = [
        kind
        for line in listed.splitlines()
        if line.startswith("| `")
        for kind in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert sorted(named) == sorted(Kind)
    assert all(f"`{kind}`" in JSON for kind in Kind)


def test_the_conformance_statement_names_the_implementation() -> None:
    assert implementation.IMPLEMENTATION_CLASS_UID in CONFORMANCE
    assert implementation.IMPLEMENTATION_VERSION_NAME in CONFORMANCE


def test_the_conformance_statement_has_the_network_s_numbers() -> None:
    limits = Timeouts()
    assert f"{DEFAULT_MAX_PDU:,} bytes" in CONFORMANCE
    for what, seconds in (
        ("connection", limits.connection),
        ("association negotiation", limits.negotiation),
        ("C-STORE or C-FIND response", limits.answer),
        ("network inactivity", limits.network),
    ):
        assert f"| {what} | {seconds:g} s |" in CONFORMANCE


def test_every_event_is_documented() -> None:
    page = (REPOSITORY / "docs" / "json.md").read_text()
    assert [kind.value for kind in EventKind if f"`{kind.value}`" not in page] == []


def test_every_form_is_documented() -> None:
    pages = [(REPOSITORY / "docs" / name).read_text() for name in ("configuration.md", "viewers.md")]
    assert [form.value for form in Form for page in pages if f"`{form.value}`" not in page] == []
    assert [uid for uid in SOP_CLASSES.values() if uid not in CONFORMANCE] == []


def test_the_tests_that_the_documents_name_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", "".join(page.read_text() for page in PAGES))
    assert len(named) > 10
    strange = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (REPOSITORY / file).read_text()]
    assert strange == []


def test_the_conformance_statement_has_the_results_numbers() -> None:
    for number in SERIES_NUMBERS.values():
        assert f"{number} + n" in CONFORMANCE
    assert f"up to {MOST_SLICES} slices" in CONFORMANCE


def test_every_private_code_is_documented() -> None:
    private = {value for value, scheme in writer_codes.own_codes() if scheme == PRIVATE_SCHEME}
    assert private
    assert [value for value in sorted(private) if not re.search(rf"\b{value}\b", CONFORMANCE)] == []


@pytest.mark.parametrize("page", [CONFORMANCE, LUNG_CT], ids=["conformance", "lung_ct"])
def test_the_model_s_codes_are_documented(page: str) -> None:
    card = read_card("lung_ct", find_bundle("builtin:lung_ct"))
    named = [finding.finding for finding in card.findings] + [VOLUME, ATTENUATION, LAA_950, PERCENTILE_15]
    assert [code for code in named if f"{code.value} {code.scheme}" not in page] == []


def test_the_entries_of_the_model_page_are_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", MODELS, re.DOTALL)
    assert len(blocks) >= 4
    for number, block in enumerate(blocks):
        head = "" if "[[models]]" in block else '[[models]]\nname = "m"\nbundle = "b"\n'
        digest = "" if "digest" in block else f'digest = "{"0" * 64}"\n'
        config = tmp_path / f"{number}.toml"
        config.write_text(head + digest + block.replace("b1c2...", "b1c2" * 16))
        assert len(load(config, environment={}).models) == 1


def test_every_key_of_a_model_is_documented() -> None:
    tables = (
        *(Select, Priors, SegmentDescription, FindingDescription, ClassDescription, NumberDescription),
        ModelSettings,
    )
    keys = {key for table in tables for key in table.model_fields} - {
        "select",
        "priors",
        "segments",
        "findings",
        "classes",
        "measurements",
    }
    assert [key for key in sorted(keys) if not re.search(rf"`{key}`|\b{key} = ", MODELS)] == []


def test_every_key_of_the_configuration_is_documented(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "configuration.md").read_text()
    for name, field in Settings.model_fields.items():
        table = (get_args(field.annotation) or (None, field.annotation))[-1]
        if name not in {"models", "base_dir"}:  # what stands in an entry of a model: above
            keys = page.partition(f"\n## [{name}]\n")[2] or page.partition(f"\n## [[{name}]]\n")[2]
            keys = keys.partition("\n## [")[0]
            assert [key for key in table.model_fields if f"`{key}`" not in keys] == [], name
    block = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert block is not None
    (tmp_path / "config.toml").write_text(block[1])
    assert load(tmp_path / "config.toml", environment={}).urgent["emergency"].priority == 100
