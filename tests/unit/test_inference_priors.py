"""Earlier series in the hands of a model: each analysed by itself and compared, or all given to the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from inference.account import Account
from inference.analysis import Analysis, Analyst
from inference.catalog import ModelCard, read_card
from inference.description import ModelDescription
from inference.priors import Prior
from inference.series import Series
from study.errors import BundleInvalid, InferenceError, StudyRefused, UndecodablePixelData
from study.geometry import FrameOfReferencePolicy, assess
from study.headers import InstanceHeader
from study.imaging import EarlierSeries
from tests.support.bundles import zoo_bundle
from tests.support.series import ct_series, save_series

SHAPE = (5, 12, 16)
SPRING, WINTER = "20230511", "20210302"
MILLILITRES = 2.0 * 0.8 * 0.7 / 1000

ABOVE = """
import torch

class Net(torch.nn.Module):
    def forward(self, image):
        return (image > 100).float()
"""
CHANGED = """
import torch

class Net(torch.nn.Module):
    '''What is bright now and was not then.'''

    def forward(self, images):
        return ((images[:, :1] > 100) & (images[:, 1:2] <= 100)).float()
"""
MEAN_CHANGE = """
import torch

class Net(torch.nn.Module):
    def forward(self, images):
        now, *then = (image.mean() for image in images[0])
        return torch.stack([now - each for each in then])[None]
"""
ONE_BLOCK = {"type": "image", "format": "segmentation", "channel_def": {"0": "background", "1": "block"}}


def bright(voxels: int) -> NDArray[np.float64]:
    """Return a volume with so many bright voxels, none of them at an edge of it."""
    volume = np.zeros(SHAPE)
    inside = np.zeros(SHAPE, dtype=bool)
    inside[1:-1, 2:-2, 2:-2] = True
    places = np.flatnonzero(inside)[:voxels]
    volume.ravel()[places] = 300.0
    return volume


def series(folder: Path, volume: NDArray[np.float64], date: str) -> Series:
    paths = save_series(ct_series(volume, attributes={"StudyDate": date}), folder)
    headers = [InstanceHeader.of(read, read.file_meta.TransferSyntaxUID) for read in map(dcmread, paths)]
    return Series(tuple(paths), tuple(headers), assess(headers, FrameOfReferencePolicy.STRICT), 2)


def prior(folder: Path, volume: NDArray[np.float64], date: str, *limits: str) -> Prior:
    made = series(folder / date, volume, date)
    first = made.headers[0]
    return Prior(EarlierSeries(first.study_instance_uid, first.series_instance_uid, date), made, limits)


def card_of(folder: Path, network: str = ABOVE, *, target: str = "", **described: Any) -> ModelCard:  # noqa: ANN401
    """Return the card of a bundle; `described` are keys of its priors."""
    keys = ["@image_key", "prior", "prior_2"][: described.get("count", 1) + 1] if described.get("input") else []
    concatenated = {"_target_": "ConcatItemsd", "keys": keys, "name": "@image_key"}
    bundle = zoo_bundle(folder, network=network, preprocessing=[concatenated] if keys else [], output=ONE_BLOCK)
    entry: dict[str, Any] = {"priors": described, "measures": ["volume", "mean_attenuation"], "target": target}
    if network is MEAN_CHANGE:
        numbers = [
            {"index": index, "label": f"Change {index}", "name": ["C", "99T", "Change"], "unit": ["1", "UCUM", "one"]}
            for index in range(described["count"])
        ]
        entry = {"priors": described, "kind": "measurement", "measurements": numbers}
    return read_card("toy", bundle, ModelDescription.model_validate(entry))


def analysed(card: ModelCard, now: Series, priors: Sequence[Prior], account: Account | None = None) -> Analysis:
    return Analyst("cpu", threads=2).analyse(
        card, now.paths, now.headers, now.geometry, ["A note."], account=account, priors=priors
    )


def volumes(analysis: Analysis) -> list[float]:
    """Return the volume now and then, in voxels."""
    (finding,) = analysis.result_set.findings
    volume = finding.measurements[0]
    return [round(value / MILLILITRES, 6) for value in (volume.value, *(each.value for each in volume.earlier))]


def test_each_earlier_series_is_measured_alike(tmp_path: Path) -> None:
    account = Account()
    now = series(tmp_path / "now", bright(90), "20240203")
    priors = [prior(tmp_path, bright(120), SPRING, "A limit."), prior(tmp_path, bright(60), WINTER)]
    analysis = analysed(card_of(tmp_path / "toy", count=2), now, priors, account)
    assert volumes(analysis) == [90, 120, 60]
    assert [each.study_date for each in analysis.result_set.earlier] == [SPRING, WINTER]
    assert (analysis.result_set.limits, analysis.result_set.earlier_limits) == (("A note.",), ("A limit.",))
    assert [[str(each.SOPInstanceUID) for each in headers] for headers in analysis.earlier] == [
        [each.sop_instance_uid for each in made.series.headers] for made in priors
    ]
    record = account.details()
    assert [(each["study_date"], each["compared"], each["words"]) for each in record["priors"]] == [
        (SPRING, True, ""),
        (WINTER, True, ""),
    ]
    found = record["priors"][0]["measurements"][0]
    assert (found["name"], round(found["value"] / MILLILITRES, 6)) == ("Volume", 120)
    assert {"decode", "inference", "measure"} <= set(record["priors"][0]["seconds"])
    assert record["seconds"]["prior"] >= sum(record["priors"][0]["seconds"].values()) / 2
    assert record["measurements"][0]["value"] == pytest.approx(90 * MILLILITRES)
    assert record["model_was_warm"] is False


def test_news_of_an_earlier_series_are_of_one_step(tmp_path: Path) -> None:
    told: list[str] = []
    now = series(tmp_path / "now", bright(90), "20240203")
    analysed(
        card_of(tmp_path / "toy"),
        now,
        [prior(tmp_path, bright(10), SPRING)],
        Account(tell=lambda step, _on_cpu: told.append(step)),
    )
    assert list(dict.fromkeys(told)) == ["load", "decode", "preprocess", "inference", "postprocess", "measure", "prior"]
    assert told.index("prior") > told.index("measure")


def test_an_earlier_series_that_can_not_be_read_is_no_fault_of_this_one(tmp_path: Path) -> None:
    now = series(tmp_path / "now", bright(90), "20240203")
    broken, sound = prior(tmp_path, bright(9), SPRING), prior(tmp_path, bright(60), WINTER)
    image = dcmread(broken.series.paths[2])
    image.PixelData = image.PixelData[:10]
    image.save_as(broken.series.paths[2])
    analysis = analysed(card_of(tmp_path / "toy", count=2), now, [broken, sound])
    assert volumes(analysis) == [90, 60]
    assert [each.study_date for each in analysis.result_set.earlier] == [WINTER]
    (words,) = analysis.result_set.not_compared
    assert words.startswith("Not compared with the study of 2023-05-11: Image 3 of the series ")
    with pytest.raises(StudyRefused) as caught:
        analysed(card_of(tmp_path / "needing", required=True), now, [broken])
    assert caught.value.reason.code == "NoPrior"
    assert isinstance(caught.value.__cause__, UndecodablePixelData)


def test_an_earlier_series_on_which_the_model_fails_is_no_fault_of_this_one(tmp_path: Path) -> None:
    now = series(tmp_path / "now", bright(90), "20240203")
    fails = ABOVE.replace("return", "assert image.max() < 350, 'too bright'\n        return")
    glaring = prior(tmp_path, bright(30) * 2, SPRING)
    analysis = analysed(card_of(tmp_path / "toy", fails), now, [glaring])
    assert volumes(analysis) == [90]
    assert analysis.result_set.not_compared == (
        "Not compared with the study of 2023-05-11: The model failed: AssertionError: too bright",
    )
    assert analysis.earlier == ()
    with pytest.raises(InferenceError, match="too bright"):
        analysed(card_of(tmp_path / "needing", fails, required=True), now, [glaring])


def test_an_organ_that_was_not_in_the_images_then_is_said(tmp_path: Path) -> None:
    now = series(tmp_path / "now", bright(90), "20240203")
    analysis = analysed(card_of(tmp_path / "toy", target="block"), now, [prior(tmp_path, bright(0), SPRING)])
    assert volumes(analysis) == [90]
    assert "block are not in the field of view" in analysis.result_set.not_compared[0]


def test_a_bundle_with_two_inputs_gets_the_earlier_series(tmp_path: Path) -> None:
    now, then = series(tmp_path / "now", bright(90), "20240203"), prior(tmp_path, bright(60), SPRING, "A limit.")
    analysis = analysed(card_of(tmp_path / "toy", CHANGED, input="prior"), now, [then])
    assert volumes(analysis) == [30]
    assert analysis.result_set.earlier == (then.earlier,)
    assert (analysis.result_set.limits, analysis.result_set.earlier_limits) == (("A note.",), ("A limit.",))
    assert len(analysis.earlier[0]) == SHAPE[0]
    (record,) = analysis.account.details()["priors"]
    assert (record["compared"], set(record["seconds"])) == (True, {"decode"})


def test_a_bundle_gets_several_in_order_and_the_next_moves_up(tmp_path: Path) -> None:
    now = series(tmp_path / "now", np.full(SHAPE, 100.0), "20240203")
    spring, winter = (prior(tmp_path, np.full(SHAPE, level), date) for level, date in ((70.0, SPRING), (20.0, WINTER)))
    card = card_of(tmp_path / "toy", MEAN_CHANGE, input="prior", count=2)
    assert card.priors is not None
    assert card.priors.inputs == ("prior", "prior_2")
    said = analysed(card, now, [spring, winter]).result_set
    assert [each.measurements[0].value for each in said.assessments] == [30.0, 80.0]
    spring.series.paths[0].unlink()
    one = card_of(tmp_path / "one", MEAN_CHANGE, input="prior", count=1)
    said = analysed(one, now, [spring, winter]).result_set
    assert [each.measurements[0].value for each in said.assessments] == [80.0]
    assert [each.study_date for each in said.earlier] == [WINTER]
    assert said.not_compared[0].startswith("Not compared with the study of 2023-05-11: ")


def test_the_image_is_never_taken_for_an_earlier_one(tmp_path: Path) -> None:
    inputs = {name: {"type": "image", "modality": "CT", "num_channels": 1} for name in ("prior", "image")}
    bundle = zoo_bundle(
        tmp_path / "toy",
        network=CHANGED,
        preprocessing=[{"_target_": "ConcatItemsd", "keys": ["image", "prior"], "name": "image"}],
        metadata={"network_data_format": {"inputs": inputs, "outputs": {"pred": ONE_BLOCK}}},
        output=ONE_BLOCK,
    )
    with pytest.raises(BundleInvalid, match="the model has 2 inputs"):
        read_card("toy", bundle)
    card = read_card("toy", bundle, ModelDescription.model_validate({"priors": {"input": "prior"}}))
    now, then = series(tmp_path / "now", bright(90), "20240203"), prior(tmp_path, bright(60), SPRING)
    assert volumes(analysed(card, now, [then])) == [30]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"kind": "classification", "classes": [{"index": 0, "label": "A"}]}, "classes are not compared"),
        ({"select": {"form": "image"}, "kind": "classification"}, "single images are not compared"),
        ({"priors": {"modality": "MR"}}, "it is not for MR"),
    ],
)
def test_what_can_not_be_compared_is_said_when_the_entry_is_read(
    tmp_path: Path, entry: dict[str, Any], words: str
) -> None:
    bundle = zoo_bundle(tmp_path / "toy", network=ABOVE, output=ONE_BLOCK)
    with pytest.raises(BundleInvalid, match=words):
        read_card("toy", bundle, ModelDescription.model_validate({"priors": {}} | entry))
