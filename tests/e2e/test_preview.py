"""``hilum preview`` draws what the node found, from its own files, and says in words where there is nothing to draw."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom import dcmread

from hilum.phantom import write_phantom_study
from tests.support.node import Node, running
from tests.support.pictures import opened
from tests.support.series import ct_series, save_series


def test_a_study_is_drawn_and_one_without_results_is_not(tmp_path: Path) -> None:
    write_phantom_study(tmp_path / "phantom", datetime.now(UTC), 40)
    nothing = ct_series(np.full((40, 32, 32), 40), attributes={"AccessionNumber": "NOLUNGS"})
    save_series(nothing, tmp_path / "nothing")
    with running(Node(tmp_path / "node", [])) as node:
        missing = node.command("preview", "1.2.3", check=False)
        assert missing.returncode == 1
        assert "No study 1.2.3" in missing.stderr
        node.send(tmp_path / "phantom")
        node.send(tmp_path / "nothing")
        node.wait_for_state("DELIVERED", "REPORTED", "REFUSED", "FAILED", studies=2)
        out = tmp_path / "out"
        drawn = node.command("preview", "DEMO", "--out", str(out))
        paths = [Path(line) for line in drawn.stdout.splitlines()]
        assert {path.parent.parent for path in paths} == {out}  # a folder for each study
        out = paths[0].parent
        names = ["montage", "axial-1", "axial-2", "axial-3", "coronal", "sagittal"]
        assert [path.name for path in paths] == [f"lung_ct-{name}.png" for name in names]
        coronal = opened(out / "lung_ct-coronal.png").astype(int)
        green = np.argwhere(coronal[..., 1] - coronal[..., 2] > 20)
        blue = np.argwhere(coronal[..., 2] - coronal[..., 1] > 30)
        assert len(green) > 1000
        assert green[:, 1].mean() < blue[:, 1].mean()  # the right lung is on the left
        _demand_that_a_changed_result_is_noticed(node, tmp_path / "changed.dcm")
        refused = node.command("preview", "NOLUNGS", "--out", str(tmp_path / "none"), check=False)
        assert refused.returncode == 1
        assert "nothing to draw" in refused.stderr
        assert "lung_ct" in refused.stderr
        assert not (tmp_path / "none").exists()


def _demand_that_a_changed_result_is_noticed(node: Node, copy: Path) -> None:
    """A number that was changed later keeps every rule, and is not what the node made."""
    (path,) = node.data_dir.glob("results/*/*/sr.dcm")
    report = dcmread(path)
    report.save_as(copy)
    (sound,) = json.loads(node.command("check", str(copy), "--json").stdout)
    assert (sound["ok"], sound["compared"]) == (True, True)
    for item in report.ContentSequence[-1].ContentSequence[0].ContentSequence:
        if item.ValueType == "NUM":
            item.MeasuredValueSequence[0].NumericValue = "9358.1"
    report.save_as(copy)
    (found,) = json.loads(node.command("check", str(copy), "--json", check=False).stdout)
    assert [reason["code"] for reason in found["reasons"]] == ["Copy"]
    assert "ContentSequence differs" in found["reasons"][0]["words"]
