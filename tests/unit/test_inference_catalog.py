from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference.catalog import digest_of, find_bundle, read_card
from inference.description import ModelDescription
from study.codes import BOTH_LUNGS, LEFT_LUNG, RIGHT_LUNG, TISSUE, Code
from study.errors import BundleInvalid
from study.selection import SelectionRule

DESCRIPTION: dict[str, Any] = {
    "segments": [{"key": "liver", "value": 3, "label": "Liver", "type": ["10200004", "SCT", "Liver"]}],
    "select": {"modality": "MR"},
    "measures": ["volume"],
}


def bundle(folder: Path, **metadata: object) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "2.1", "name": "Toy"} | metadata))
    return folder


def formats(
    output: dict[str, Any] | None = None,
    *,
    modality: str = "CT",
    channels: int = 1,
    shape: tuple[str, ...] = ("*",) * 3,
) -> dict[str, Any]:
    """Return ``network_data_format`` as the Model Zoo writes it."""
    image = {"type": "image", "modality": modality, "num_channels": channels, "spatial_shape": list(shape)}
    pred = {"type": "image", "format": "segmentation", "channel_def": {"0": "background", "1": "spleen"}}
    return {"network_data_format": {"inputs": {"image": image}, "outputs": {"pred": output or pred}}}


def described(**description: object) -> ModelDescription:
    return ModelDescription.model_validate(description)


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
    assert card.rule.modality == ("CT",)
    assert card.kind == "segmentation"
    assert card.objection is None
    assert card.hints == ()
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


def test_what_the_site_says_wins_key_by_key(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "toy", hilum=DESCRIPTION)
    card = read_card("toy", folder, described(select={"slices": [5, ""]}, target="liver"))
    assert card.rule == SelectionRule(modality=("MR",), slices=(5.0, None))
    assert card.segments[0].value == 3
    assert card.title == "Toy"
    assert card.target == "liver"
    other = read_card("toy", folder, described(segments=[{"value": 7, "label": "Lesion"}]))
    assert [(each.value, each.label) for each in other.segments] == [(7, "Lesion")]
    assert other.digest == card.digest
    assert other.description_digest != card.description_digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"segments": DESCRIPTION["segments"] * 2}, "once only"),
        ({"segments": [DESCRIPTION["segments"][0] | {"value": 0}]}, r"segments\.0\.value"),
        ({"segments": [DESCRIPTION["segments"][0] | {"type": "10200004"}]}, "a code is three texts"),
        ({"segments": [DESCRIPTION["segments"][0] | {"type": ["10200004", "Liver", "SCT"]}]}, "the scheme"),
        ({"title": "Lungenfl\u00fcgel"}, "ASCII"),
        ({"segments": [DESCRIPTION["segments"][0] | {"label": "M\u00fcller"}]}, "ASCII"),
        ({"segments": [{"key": "liver", "value": 1}]}, r"segments\.0\.label"),
        ({"select": {"modalities": ["CT"]}}, r"select\.modalities"),
        ({"select": {"modality": "MR", "description_include": ["("]}}, r"\("),
        ({"select": {"modality": "MR", "slices": [9, 3]}}, "lowest"),
        ({"measures": ["beauty"]}, "measures"),
        ({"measures": ["laa_950"]}, "Hounsfield"),
        ({"findings": [{"key": "x", "label": "X", "type": ["1", "SCT", "X"], "segments": ["spleen"]}]}, "spleen"),
    ],
)
def test_what_is_wrong_in_our_object_is_said(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = bundle(tmp_path / "toy", hilum=DESCRIPTION | change)
    with pytest.raises(BundleInvalid, match=words) as caught:
        read_card("toy", folder)
    assert "metadata.json" in caught.value.words


def test_codes_and_colours_are_read_in_either_form() -> None:
    listed = described(segments=[{"value": 1, "label": "A", "type": ["1", "SCT", "A"], "colour": [0, 158, 115]}])
    named = described(
        segments=[
            {"value": 1, "label": "A", "type": {"value": "1", "scheme": "SCT", "meaning": "A"}, "colour": "#009e73"}
        ]
    )
    assert listed.segments == named.segments
    assert listed.segments[0].type == Code("1", "SCT", "A")


def test_a_zoo_bundle_needs_no_words_of_ours(tmp_path: Path) -> None:
    card = read_card("spleen", bundle(tmp_path / "spleen_ct_segmentation", **formats()))
    assert card.kind == "segmentation"
    assert card.rule.modality == ("CT",)
    assert card.rule.form == "volume"
    (spleen,) = card.segments
    assert (spleen.value, spleen.label, spleen.property_type) == (1, "Spleen", Code("78961009", "SCT", "Spleen"))
    assert card.measures == ("volume", "mean_attenuation")
    (hint,) = card.hints  # a spleen model is not for heads
    assert "body_part" in hint
    assert read_card("spleen", card.path, described(select={"body_part": "ABDOMEN"})).hints == ()


def test_the_104_structures_of_the_whole_body_have_codes(tmp_path: Path) -> None:
    card = read_card(
        "body", bundle(tmp_path / "wholeBody_ct_segmentation", **formats({"type": "image", "format": "segmentation"}))
    )
    assert [segment.value for segment in card.segments] == list(range(1, 105))
    assert len(set(card.keys)) == 104
    assert TISSUE not in {segment.property_type for segment in card.segments}
    right = next(segment for segment in card.segments if segment.label == "Right kidney")
    assert "ight" in right.property_type.meaning + (right.laterality.meaning if right.laterality else "")


def test_channels_that_overlap_are_numbered_from_one(tmp_path: Path) -> None:
    output = {
        "type": "image",
        "format": "segmentation",
        "channel_def": {"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"},
    }
    card = read_card("t", bundle(tmp_path / "brats_like", **formats(output, modality="MR")))
    assert [segment.value for segment in card.segments] == [1, 2, 3]
    assert card.rule.modality == ("MR",)
    assert card.measures == ("volume",)


def test_labels_that_nobody_knows_stay_as_they_are(tmp_path: Path) -> None:
    output = {"type": "image", "format": "segmentation", "channel_def": {"0": "background", "1": "flux_capacitor"}}
    folder = bundle(tmp_path / "toy", **formats(output))
    card = read_card("toy", folder)
    assert card.segments[0].label == "flux capacitor"
    assert card.segments[0].property_type == TISSUE
    assert "[[models.segments]]" in card.hints[0]
    better = read_card(
        "toy", folder, described(segments=[{"value": 1, "label": "Capacitor", "type": ["1", "99X", "Y"]}])
    )
    assert not any("[[models.segments]]" in hint for hint in better.hints)
    assert better.keys == ("capacitor",)


def test_a_classification_names_its_classes(tmp_path: Path) -> None:
    output = {"type": "probabilities", "format": "classes", "channel_def": {"0": "A", "1": "B"}}
    card = read_card(
        "density", bundle(tmp_path / "density", **formats(output, modality="Mammogram", channels=3, shape=("*", "*")))
    )
    assert card.kind == "classification"
    assert card.rule.form == "image"
    assert card.rule.modality == ("MG",)
    assert [(each.index, each.label, each.finding.meaning) for each in card.classes] == [(0, "A", "A"), (1, "B", "B")]
    assert card.segments == ()


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"task": "Lung nodule detection"} | formats({"type": "image", "format": "labels"}), "none that can be run"),
        (formats({"type": "object", "format": "dict"}), "none that can be taken"),
        (formats(channels=4), "4 channels"),
        (formats(modality="histology"), "modality"),
        (formats({"type": "image", "format": "segmentation"}), r"\[\[models.segments\]\]"),
        (
            formats({"type": "image", "format": "segmentation", "channel_def": {"0": "bg", "1": "a", "2": "A"}}),
            "called",
        ),
        (formats({"type": "image", "format": "segmentation", "channel_def": {"0": "bg", "1": "\u80ba"}}), "ASCII"),
        (formats(modality="DX"), "single images"),
        (
            formats({"type": "image", "format": "segmentation", "channel_def": {"0": "liver", "1": "background"}}),
            "background is number 1",
        ),
        ({"network_data_format": {"inputs": {"a": {}, "b": {}}}}, "2 inputs"),
        ({"hilum": {"kind": "measurement", "select": {"modality": "MR"}}}, r"\[\[models.measurements\]\]"),
        ({"version": ""}, "version"),
    ],
)
def test_what_can_not_be_run_is_refused_in_words(tmp_path: Path, metadata: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleInvalid, match=words):
        read_card("toy", bundle(tmp_path / "toy", **metadata))


def test_a_folder_behind_a_link_is_part_of_the_digest(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "toy", hilum=DESCRIPTION)
    approved = digest_of(folder)
    (tmp_path / "elsewhere").mkdir()
    (folder / "pkg").symlink_to(tmp_path / "elsewhere")
    assert digest_of(folder) != approved
    card = read_card("toy", folder, digest=approved)
    assert card.objection is not None


def test_a_changed_bundle_is_known_and_never_runs(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "toy", hilum=DESCRIPTION)
    approved = digest_of(folder)
    assert read_card("toy", folder, digest=approved).objection is None
    (folder / "scripts").mkdir()
    (folder / "scripts" / "more.py").write_text("import os\n")
    card = read_card("toy", folder, digest=approved)
    assert card.objection is not None
    assert card.objection.code == "BundleChanged"
    assert approved in card.objection.words
    assert card.digest in card.objection.words


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
