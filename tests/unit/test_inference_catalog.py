from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference.catalog import find_bundle, read_card
from study.codes import BOTH_LUNGS, LEFT_LUNG, RIGHT_LUNG
from study.errors import BundleInvalid
from study.selection import SelectionRule

DESCRIPTION: dict[str, Any] = {
    "segments": [{"key": "liver", "value": 3, "label": "Liver", "type": ["10200004", "SCT", "Liver"]}],
    "select": {"modality": "MR", "sop_classes": ["1.2.840.10008.5.1.4.1.1.4"]},
    "measures": ["volume"],
}


def bundle(folder: Path, **metadata: object) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "2.1", "name": "Toy"} | metadata))
    return folder


def test_the_shipped_model_says_what_it_is_for() -> None:
    card = read_card("lung_ct", find_bundle("builtin:lung_ct"))
    assert card.name == "lung_ct"
    assert card.version == "1.0.0"
    assert card.keys == ("right_lung", "left_lung")
    assert [segment.property_type for segment in card.segments] == [RIGHT_LUNG, LEFT_LUNG]
    assert [segment.laterality for segment in card.segments] == [None, None]
    assert [finding.key for finding in card.findings] == ["right_lung", "left_lung", "both_lungs"]
    assert card.findings[2].site == BOTH_LUNGS
    assert card.findings[2].segment_values == (1, 2)
    assert card.rule.modality == "CT"
    assert "LOCALIZER" in card.rule.image_type_exclude
    assert card.target == "lungs"


def test_the_catalog_loads_no_heavy_library() -> None:
    code = (
        "import sys; from inference.catalog import *; read_card('a', find_bundle('builtin:lung_ct'));"
        "print({'torch', 'monai', 'pynetdicom', 'scipy', 'cc3d'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["builtin:nothing", "builtin:../lung_ct", "builtin:", "builtin:lung_ct/.."])
def test_an_unknown_builtin_is_named_with_those_that_exist(name: str) -> None:
    with pytest.raises(BundleInvalid, match="builtin:lung_ct"):
        find_bundle(name)


def test_a_relative_path_counts_from_the_given_folder(tmp_path: Path) -> None:
    bundle(tmp_path / "models" / "toy")
    assert find_bundle("models/toy", tmp_path) == tmp_path / "models" / "toy"
    with pytest.raises(BundleInvalid, match="no folder"):
        find_bundle("models/other", tmp_path)


def test_the_digest_follows_names_and_contents_only(tmp_path: Path) -> None:
    original = bundle(tmp_path / "a", hilum=DESCRIPTION)
    digest = read_card("toy", original).digest
    copy = Path(shutil.copytree(original, tmp_path / "b"))
    (copy / "scripts" / "__pycache__").mkdir(parents=True)
    (copy / "scripts" / "__pycache__" / "x.pyc").write_bytes(b"1")
    assert read_card("toy", copy).digest == digest
    (copy / "scripts" / "x.py").write_text("")
    assert read_card("toy", copy).digest != digest
    (copy / "scripts" / "x.py").unlink()
    (copy / "configs" / "metadata.json").write_text(json.dumps({"version": "2.2", "hilum": DESCRIPTION}))
    assert read_card("toy", copy).digest != digest


def test_a_bundle_without_our_object_takes_a_description(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "toy")
    with pytest.raises(BundleInvalid, match='add a "hilum" object'):
        read_card("toy", folder)
    card = read_card("toy", folder, DESCRIPTION)
    assert card.rule == SelectionRule(modality="MR", sop_classes=("1.2.840.10008.5.1.4.1.1.4",))
    assert card.segments[0].value == 3
    assert card.title == "Toy"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"segments": []}, "there must be segments"),
        ({"segments": DESCRIPTION["segments"] * 2}, "once only"),
        ({"segments": [DESCRIPTION["segments"][0] | {"value": 0}]}, "whole number"),
        ({"segments": [DESCRIPTION["segments"][0] | {"type": "10200004"}]}, "is no code"),
        ({"segments": [{"key": "liver", "value": 1}]}, "'label' is missing"),
        ({"select": {"modalities": ["CT"]}}, "modalities"),
        ({"measures": ["beauty"]}, "beauty"),
        ({"findings": [{"key": "x", "label": "X", "type": ["1", "SCT", "X"], "segments": ["spleen"]}]}, "spleen"),
    ],
)
def test_what_is_wrong_in_our_object_is_said(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = bundle(tmp_path / "toy", hilum=DESCRIPTION | change)
    with pytest.raises(BundleInvalid, match=words) as caught:
        read_card("toy", folder)
    assert "metadata.json" in caught.value.words


@pytest.mark.parametrize(("content", "words"), [(None, "does not exist"), ("{", "JSON"), ("[]", "no JSON object")])
def test_metadata_that_can_not_be_read_are_named(tmp_path: Path, content: str | None, words: str) -> None:
    folder = bundle(tmp_path / "toy")
    file = folder / "configs" / "metadata.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(BundleInvalid, match=words):
        read_card("toy", folder)
