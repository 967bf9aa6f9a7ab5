"""`hilum models bench` on small bundles and real files: what is timed, compared, said, and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import CliRunner

from db.images.index import add_instances
from hilum.cli import app
from hilum.config import Settings
from hilum.entries import ModelSettings
from hilum.models.bench import Bench
from hilum.models.benched import bench_json, show_bench
from hilum.models.benching import bench
from hilum.models.measured import measured_last, unmeasured
from hilum.models.picking import pick
from hilum.planning import read_cards
from inference.catalog import digest_of
from study.entities import StoredInstance
from study.errors import ArchiveError, NoEligibleSeries, TargetNotInFieldOfView
from study.headers import InstanceHeader
from tests.support.bundles import zoo_bundle
from tests.support.databases import migrated
from tests.support.series import axial_affine, ct_series, save_series
from tests.support.site import entry

THRESHOLD = """
import torch

class Net(torch.nn.Module):
    '''Marks what is above 256.5; in bfloat16 257 is 256, and 258 stays what it is.'''

    def __init__(self):
        super().__init__()
        self.same = torch.nn.Conv3d(1, 1, 1, bias=False)

    def forward(self, image):
        return (self.same(image) > 256.5).float()
"""
TWO_CLASSES = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.same = torch.nn.Conv3d(1, 1, 1, bias=False)

    def forward(self, image):
        score = (self.same(image).float().mean() - 256.5).reshape(1, 1)
        return torch.cat([score, -score], dim=1)
"""
WEIGHTS = {"same.weight": torch.ones(1, 1, 1, 1, 1)}
CLASSES = {
    "type": "probabilities",
    "format": "classification",
    "num_channels": 2,
    "channel_def": {"0": "dense", "1": "loose"},
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder with a study: in air, a block of 12 pixels, 4 slices of it at 257 HU and 2 at 258 HU."""
    voxels = np.full((8, 6, 5), -1000.0)
    voxels[1:5, 1:5, 1:4], voxels[5:7, 1:5, 1:4] = 257, 258
    save_series(ct_series(voxels, axial_affine((2.0, 0.8, 0.8)), study_instance_uid="1.2.1"), tmp_path / "images")
    return tmp_path / "images"


def site_of(home: Path, **description: object) -> Settings:
    bundle = home / "toy"
    if not bundle.exists():
        zoo_bundle(bundle, network=THRESHOLD, weights=WEIGHTS)
    return settings_for(home, entry(bundle, **description))


def settings_for(home: Path, model: ModelSettings) -> Settings:
    inference = {"devices": ["cpu"]}
    return Settings.model_validate({"models": {model.name: model}, "inference": inference, "base_dir": home})


def steps_of(found: Bench) -> Mapping[str, int]:
    return {step: spread.n for step, spread in found.steps.items()}


def test_each_step_is_timed_over_the_runs_and_the_model_is_loaded_once(images: Path) -> None:
    settings = site_of(images.parent)
    found = bench(settings, "toy", str(images), 3, "cpu")
    thrice = ("decode", "preprocess", "inference", "postprocess", "measure", "all")
    assert steps_of(found) == {"load": 1, **dict.fromkeys(thrice, 3)}
    assert [run["model_was_warm"] for run in found.runs] == [False, True, True]
    assert (found.forward_calls, found.picked.words) == (1, 'series 3 "Phantom axial"')
    assert 0 < found.forward_seconds < found.inference_seconds
    assert found.share == found.forward_seconds / found.inference_seconds
    assert found.peaks["device_peak"] is None
    assert found.apart.labels is not None  # compared with the bundle as it stands, though it ran in float32 too
    assert (found.apart.labels.differing, found.apart.labels.held) == (0, 72)
    assert measured_last(settings, "toy") is not None


def test_the_difference_of_a_label_map_from_float32_is_counted_and_kept(images: Path) -> None:
    settings = site_of(images.parent, precision="bfloat16")
    card = read_cards(settings)["toy"]
    assert "never measured" in (unmeasured(settings, card) or "")
    found = bench(settings, "toy", str(images), 1, "cpu")
    labels = found.apart.labels
    assert labels is not None
    assert (labels.differing, labels.held) == (48, 72)
    assert labels.dice == {"block": pytest.approx(2 * 24 / (24 + 72))}
    volumes = {each["name"]: (each["value"], each["plain"]) for each in found.apart.numbers}
    assert volumes["Volume"] == pytest.approx((24 * 1.28e-3, 72 * 1.28e-3))
    assert unmeasured(settings, card) is None
    kept = measured_last(settings, "toy")
    assert kept is not None
    assert (kept.digest, kept.precision, kept.compile, kept.device) == (card.digest, "bfloat16", False, "cpu")
    assert kept.difference == json.loads(json.dumps(bench_json(found)["difference"]))
    assert kept.difference["voxels"] == {"differing": 48, "held": 72, "share": pytest.approx(2 / 3)}
    assert "1.2.1" not in (settings.data_dir / "bench" / "toy.json").read_text()


def test_the_difference_of_probabilities_and_decisions_is_told(images: Path) -> None:
    bundle = zoo_bundle(images.parent / "sides", network=TWO_CLASSES, weights=WEIGHTS, output=CLASSES)
    voxels = np.full((8, 6, 5), 257.0)
    save_series(ct_series(voxels, axial_affine((2.0, 0.8, 0.8))), images.parent / "even")
    described: dict[str, Any] = {"kind": "classification", "activation": "softmax", "precision": "bfloat16"}
    settings = settings_for(images.parent, entry(bundle, **described))
    found = bench(settings, "sides", str(images.parent / "even"), 1, "cpu")
    # The scores are 0.5 and -0.5, and the other way round: softmax gives 1 / (1 + exp(-1)) and its complement
    assert found.apart.probability == pytest.approx(2 / (1 + np.exp(-1.0)) - 1, abs=1e-3)
    assert (found.apart.labels, found.apart.decisions) == (None, 2)


def test_what_is_shown_says_where_it_ran_and_what_was_not_measured(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = site_of(images.parent, precision="bfloat16")
    found = bench(settings, "toy", str(images), 2, "cpu")
    show_bench(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'toy 0.3.1 on series 3 "Phantom axial": 8 slices'
    assert lines[1].startswith("2 runs on cpu: bfloat16, not compiled, seed 0, deterministic")
    assert lines[2] == "Step\tMedian\tLowest\tHighest\tRuns"
    assert [line.split("\t")[0] for line in lines[3:10]] == [
        "load",
        "decode",
        "preprocess",
        "inference",
        "postprocess",
        "measure",
        "all",
    ]
    assert any(line.startswith("the network alone: ") and " in 1 forward, " in line for line in lines)
    assert "  48 of 72 voxels with a label have another one (66.6667%)" in lines
    assert "block\t0.500000" in lines
    assert lines[-1].startswith("not measured: writing and checking the results")


def test_the_command_gives_each_run_as_a_job_s_record(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = zoo_bundle(images.parent / "toy", network=THRESHOLD, weights=WEIGHTS)
    entry_of_it = f'[[models]]\nname = "toy"\nbundle = "toy"\ndigest = "{digest_of(bundle)}"\n'
    (images.parent / "config.toml").write_text(entry_of_it)
    monkeypatch.chdir(images.parent)
    done = CliRunner().invoke(app, ["models", "bench", "toy", "images", "--runs", "2", "--device", "cpu", "--json"])
    assert (done.exit_code, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["model"], told["slices"]) == ("toy", 8)
    assert told["difference"]["voxels"] == {"differing": 0, "held": 72, "share": 0.0}
    assert (told["seconds"]["load"]["n"], told["seconds"]["inference"]["n"]) == (1, 2)
    whole = told["forward"]["inference_seconds"]  # of about a millisecond, told in steps of a tenth of one
    assert told["forward"]["share"] == pytest.approx(told["forward"]["seconds"] / whole, abs=0.0002 / whole)
    assert [run["model_was_warm"] for run in told["runs"]] == [False, True]


def test_a_study_of_the_node_is_read_from_its_store_in_slice_order(images: Path) -> None:
    settings = site_of(images.parent)
    settings.data_dir.mkdir()
    images.rename(settings.data_dir / "store")
    stored = []
    for path in sorted((settings.data_dir / "store").iterdir(), reverse=True):
        header = InstanceHeader.of(dcmread(path), ExplicitVRLittleEndian)
        place = f"store/{path.name}"
        stored.append(StoredInstance(header, path.name, place, "inbox/none", 1, "MODALITY", datetime.now(UTC)))
    with migrated("sqlite", settings.data_dir) as database, database.writing() as uow:
        add_instances(uow, stored)
        uow.commit()
    picked = pick(settings, read_cards(settings)["toy"], "1.2")
    assert picked.paths == tuple(sorted((settings.data_dir / "store").iterdir()))
    assert picked.geometry is not None
    with pytest.raises(ArchiveError, match=r"1\.3 is no folder, and no study of the node: No study 1\.3"):
        pick(settings, read_cards(settings)["toy"], "1.3")


def test_a_study_that_the_model_would_not_get_is_told_with_the_reason(images: Path) -> None:
    settings = site_of(images.parent, select={"slices": [20, 500]})
    with pytest.raises(NoEligibleSeries, match=r"toy would not run on this study: .*8"):
        bench(settings, "toy", str(images), 1, "cpu")
    foreign = site_of(images.parent, select={"modality": "MR"})
    with pytest.raises(NoEligibleSeries, match=r"toy would not run on this study: .*wanted"):
        bench(foreign, "toy", str(images), 1, "cpu")


def test_a_study_that_the_model_itself_refuses_is_told(images: Path) -> None:
    save_series(ct_series(np.full((8, 6, 5), -1000.0)), images.parent / "air")
    settings = site_of(images.parent, target="block")
    with pytest.raises(TargetNotInFieldOfView, match="block"):
        bench(settings, "toy", str(images.parent / "air"), 1, "cpu")


def test_what_is_not_there_is_said(images: Path) -> None:
    settings = site_of(images.parent)
    with pytest.raises(ArchiveError, match=r"No model other; there are: toy\."):
        bench(settings, "other", str(images), 1, "cpu")
    with pytest.raises(ArchiveError, match="nowhere is no folder, and no study of the node"):
        bench(settings, "toy", "nowhere", 1, "cpu")
    save_series(ct_series(np.zeros((2, 4, 4)), study_instance_uid="1.2.2"), images / "more")
    with pytest.raises(ArchiveError, match="holds 2 DICOM studies; name a folder with one"):
        bench(settings, "toy", str(images), 1, "cpu")
