from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference.bundle import load_bundle
from inference.catalog import ModelCard, read_card
from inference.description import ModelDescription
from inference.scoring import score_image, score_volume
from study.errors import BundleInvalid, ModelOutputInvalid
from study.imaging import Assessment
from tests.support.blocks import blocks_volume
from tests.support.bundles import zoo_bundle

SCORES = """
import torch

class Net(torch.nn.Module):
    '''Logits from the mean of the first and of the second half of the first spatial axis.'''

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(3))

    def forward(self, image):
        half = image.shape[2] // 2
        first, second = image[:, :, :half].flatten(1).mean(1), image[:, :, half:].flatten(1).mean(1)
        return torch.stack([first, second, image.flatten(1).mean(1)], dim=1) + self.bias
"""
CLASSES = {"type": "probabilities", "format": "classes", "channel_def": {"0": "first", "1": "second", "2": "neither"}}
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
LOGITS = np.array([2.0, -1.0, 0.5])


def made(
    folder: Path,
    *postprocessing: dict[str, Any],
    description: dict[str, Any] | None = None,
    **arguments: Any,  # noqa: ANN401 - arguments of `zoo_bundle`
) -> tuple[ModelCard, Path]:
    given: dict[str, Any] = {
        "network": SCORES,
        "weights": {"bias": torch.zeros(3)},
        "output": CLASSES,
        "postprocessing": postprocessing,
        "modality": "DX",
        "spatial_shape": ["*", "*"],
    }
    bundle = zoo_bundle(folder / "scores", **(given | arguments))
    return read_card("scores", bundle, ModelDescription.model_validate(description or {})), bundle


def image() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a picture of 4 rows and 6 columns whose left half is 2 and whose right half is -1."""
    pixels = np.full((4, 6), 2.0, dtype=np.float32)
    pixels[:, 3:] = -1.0
    return pixels


def said(card: ModelCard, bundle: Path, index: int = 0) -> tuple[Assessment, ...]:
    loaded = load_bundle(bundle, torch.device("cpu"))
    return score_image(loaded, image(), (1.0, 1.0), card, index)


def probabilities(assessments: tuple[Assessment, ...]) -> list[float]:
    return [each.probability for each in assessments if each.probability is not None]


def test_classes_that_exclude_each_other(tmp_path: Path) -> None:
    found = said(*made(tmp_path, SOFTMAX))
    expected = np.exp(LOGITS) / np.exp(LOGITS).sum()
    assert probabilities(found) == pytest.approx(list(expected), abs=1e-6)
    assert [each.detected for each in found] == [True, False, False]
    assert [each.label for each in found] == ["first", "second", "neither"]
    assert found[0].slices == (0,)


def test_classes_that_do_not_have_thresholds_of_their_own(tmp_path: Path) -> None:
    classes = [
        {"index": 0, "label": "First", "threshold": 0.9},
        {"index": 1, "label": "Second"},
        {"index": 2, "label": "Neither", "type": ["1", "SCT", "Neither"]},
    ]
    found = said(*made(tmp_path, SIGMOID, description={"classes": classes}))
    assert probabilities(found) == pytest.approx(list(1 / (1 + np.exp(-LOGITS))), abs=1e-6)
    assert [each.detected for each in found] == [False, False, True]
    assert found[2].finding.meaning == "Neither"


def test_the_decision_is_the_bundles_own_and_the_probability_is_not_lost(tmp_path: Path) -> None:
    """As breast_density_classification decides: its output is 0 and 1."""
    decided = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.9}
    found = said(*made(tmp_path, SIGMOID, decided))
    assert probabilities(found) == pytest.approx(list(1 / (1 + np.exp(-LOGITS))), abs=1e-6)
    assert [each.detected for each in found] == [False, False, False]
    argmax = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
    assert [each.detected for each in said(*made(tmp_path / "b", SOFTMAX, argmax))] == [True, False, False]


def test_logits_are_no_probabilities_unless_the_site_says_what_makes_them_so(tmp_path: Path) -> None:
    with pytest.raises(ModelOutputInvalid, match='activation = "softmax"'):
        said(*made(tmp_path))
    found = said(*made(tmp_path / "b", description={"activation": "softmax"}))
    assert sum(probabilities(found)) == pytest.approx(1.0)


def test_the_left_half_of_a_picture_is_the_first_half_of_its_columns(tmp_path: Path) -> None:
    found = said(*made(tmp_path, SIGMOID))
    assert probabilities(found)[0] > 0.8 > probabilities(found)[1]


def test_a_grey_image_serves_as_three_channels(tmp_path: Path) -> None:
    network = SCORES.replace("half = image.shape[2] // 2", "assert image.shape[1] == 3; half = image.shape[2] // 2")
    card, bundle = made(tmp_path, SIGMOID, network=network)
    file = bundle / "configs" / "metadata.json"
    file.write_text(file.read_text().replace('"num_channels": 1', '"num_channels": 3'))
    assert probabilities(said(card, bundle)) == pytest.approx(list(1 / (1 + np.exp(-LOGITS))), abs=1e-6)


def test_another_number_of_classes_is_invalid(tmp_path: Path) -> None:
    output = {"type": "probabilities", "format": "classes", "channel_def": {"0": "yes", "1": "no"}}
    with pytest.raises(ModelOutputInvalid, match="3 values for 2 classes"):
        said(*made(tmp_path, SIGMOID, output=output))


MEASURED = {
    "kind": "measurement",
    "select": {"modality": "CT"},
    "measurements": [
        {
            "index": 1,
            "label": "Thickness",
            "name": ["1", "99T", "Thickness"],
            "unit": ["mm", "UCUM", "mm"],
            "range": [-5, 50],
        },
        {"index": 0, "label": "Width", "name": ["2", "99T", "Width"], "unit": ["mm", "UCUM", "mm"]},
    ],
}


def test_numbers_of_a_volume_have_names_and_units(tmp_path: Path) -> None:
    volume, _ = blocks_volume("axial, head first, supine")
    card, bundle = made(tmp_path, description=MEASURED, modality="CT", spatial_shape=["*"] * 3)
    found = score_volume(load_bundle(bundle, torch.device("cpu")), volume, card)
    width, thickness = found
    assert (width.label, thickness.label) == ("Width", "Thickness")
    columns = volume.voxels.shape[2] // 2
    assert width.measurements[0].value == pytest.approx(volume.voxels[:, :, :columns].mean(), rel=1e-5)
    assert thickness.measurements[0].value == pytest.approx(volume.voxels[:, :, columns:].mean(), rel=1e-5)
    assert thickness.measurements[0].unit.value == "mm"
    assert width.probability is None
    assert width.slices == ()


def test_a_number_out_of_its_range_is_invalid(tmp_path: Path) -> None:
    entries = [MEASURED["measurements"][0] | {"range": ["", 0.5]}]  # type: ignore[index]
    volume, _ = blocks_volume("axial, head first, supine")
    description = MEASURED | {"measurements": entries}
    card, bundle = made(tmp_path, description=description, modality="CT", spatial_shape=["*"] * 3)
    with pytest.raises(ModelOutputInvalid, match=r"Thickness is .* outside"):
        score_volume(load_bundle(bundle, torch.device("cpu")), volume, card)


def test_a_segmentation_is_no_classification(tmp_path: Path) -> None:
    """It is found out before the postprocessing, which could take for ever over an image of probabilities."""
    never = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: 1 / 0"}
    network = SCORES.replace(
        "return torch.stack([first, second, image.flatten(1).mean(1)], dim=1) + self.bias", "return image"
    )
    with pytest.raises(ModelOutputInvalid, match="24 values for 3 classes"):
        said(*made(tmp_path, never, network=network))


def test_a_threshold_that_has_no_effect_is_refused(tmp_path: Path) -> None:
    classes = [{"index": 0, "label": "A", "threshold": 0.9}, {"index": 1, "label": "B"}]
    with pytest.raises(BundleInvalid, match="exclusive = false"):
        made(tmp_path, description={"classes": classes, "activation": "softmax"})
