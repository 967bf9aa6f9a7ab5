"""Validators and readers of result objects that others wrote: what they find, as plain values."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.peers import environment_program, program

Affine = NDArray[np.float64]
Labels = NDArray[Any]

_JAVA = (
    "-Xmx6g -Djdk.xml.xpathTotalOpLimit=0 -Djdk.xml.xpathExprOpLimit=0 -Djdk.xml.xpathExprGrpLimit=0"
    " -XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
)
"""Without the limits DicomSRValidator stops at one of Java 17 and still exits 0.

The rest halves its time: a run of seconds is over before what the optimising compiler makes could pay off.
"""


def dciodvfy_errors(path: Path, iod: str) -> list[str]:
    """Return the errors that dciodvfy finds in an object, which it must recognise as `iod`."""
    dciodvfy = program("dciodvfy", package="dicom3tools")
    run = subprocess.run([dciodvfy, "-new", path], capture_output=True, text=True, errors="replace", check=False)
    said = run.stdout + run.stderr
    assert iod in said, said
    return [line for line in said.splitlines() if line.startswith("Error")]


def dcentvfy_errors(*paths: Path) -> list[str]:
    """Return the errors that dcentvfy finds between objects of one patient and study."""
    dcentvfy = program("dcentvfy", package="dicom3tools")
    run = subprocess.run([dcentvfy, *paths], capture_output=True, text=True, check=False)
    return [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]


def sr_validator_errors(path: Path, template: str = "TID_1500") -> list[str]:
    """Return the errors that PixelMed's DicomSRValidator finds; it must have come to its end, in the template.

    Parameters
    ----------
    template
        "" for a report that claims none.
    """
    validator = program("DicomSRValidator", package="pixelmed-apps")
    environment = os.environ | {"JAVA_TOOL_OPTIONS": _JAVA}
    run = subprocess.run([validator, path], capture_output=True, text=True, check=False, env=environment, timeout=300)
    said = run.stdout + run.stderr
    assert "IOD validation complete" in said, said
    assert (f"Found Root Template {template}" if template else "IOD validation complete") in said
    assert template or "Found Root Template" not in said
    return [line for line in said.splitlines() if line.startswith("Error")]


def dcmqi_label_map(segmentation: Path, grid: Affine, shape: tuple[int, ...], folder: Path) -> Labels:
    """Return the label map that dcmqi's segimage2itkimage reads, laid on a grid by its own affine.

    Parameters
    ----------
    grid
        (slice, row, column, 1) to LPS [mm].
    shape
        (slices, rows, columns) of the grid.
    """
    found: Labels = np.zeros(shape, dtype=np.uint8)
    for number, mask in dcmqi_masks(segmentation, grid, shape, folder).items():
        found[mask] = number
    return found


def dcmqi_masks(segmentation: Path, grid: Affine, shape: tuple[int, ...], folder: Path) -> dict[int, Labels]:
    """Return where each segment is, as dcmqi's segimage2itkimage reads it; segments may overlap."""
    converter = environment_program("segimage2itkimage", package="dcmqi")
    options = ["--inputDICOM", str(segmentation), "--outputDirectory", str(folder), "--outputType", "nrrd", "-p", "x"]
    subprocess.run([converter, *options], check=True, capture_output=True, timeout=300)
    masks: dict[int, Labels] = {}
    for path in sorted(folder.glob("x-*.nrrd")):
        values, affine = _read_nrrd(path)
        for number in np.unique(values[values > 0]):
            mask = masks.setdefault(int(number), np.zeros(shape, dtype=np.bool_))
            _place(values == number, affine, mask, grid)
    return masks


def dcmqi_report(report: Path, folder: Path) -> dict[str, Any]:
    """Return what dcmqi's tid1500reader reads of a report."""
    reader = environment_program("tid1500reader", package="dcmqi")
    out = folder / "read.json"
    subprocess.run([reader, "--inputDICOM", report, "--outputMetadata", out], check=True, capture_output=True)
    read: dict[str, Any] = json.loads(out.read_text())
    return read


def dcmqi_numbers(group: dict[str, Any]) -> list[tuple[str, float, str]]:
    """Return the measurements of one group of `dcmqi_report`: code value, number, unit."""
    return [
        (item["quantity"]["CodeValue"], float(item["value"]), item["units"]["CodeValue"])
        for item in group["measurementItems"]
    ]


def _place(mask: NDArray[np.bool_], affine: Affine, into: Labels, grid: Affine) -> None:
    """Put each voxel of `mask` where its place in the patient says, not where its index does."""
    voxels = np.argwhere(mask)
    places = np.column_stack([voxels, np.ones(len(voxels))]) @ affine.T
    indices = places @ np.linalg.inv(grid).T
    rounded = np.rint(indices[:, :3]).astype(int)
    assert np.abs(indices[:, :3] - rounded).max() < 0.05
    into[tuple(rounded.T)] = True


def _read_nrrd(path: Path) -> tuple[Labels, Affine]:
    """Read an NRRD with gzip or raw data: voxels as (k, j, i), and the affine from (k, j, i, 1) to LPS [mm]."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    assert fields["space"] == "left-posterior-superior"
    sizes = [int(size) for size in fields["sizes"].split()]
    dtype = {"unsigned char": "u1", "short": "<i2", "unsigned short": "<u2"}[fields["type"]]
    content = gzip.decompress(body) if fields["encoding"] in ("gzip", "gz") else body
    voxels = np.frombuffer(content, dtype=dtype).reshape(sizes[::-1])
    affine = np.eye(4)
    affine[:3, :3] = _vectors(fields["space directions"])[::-1].T
    affine[:3, 3] = _vectors(fields["space origin"])[0]
    return voxels, affine


def _vectors(text: str) -> Affine:
    return np.array([[float(x) for x in part.strip("()").split(",")] for part in text.split()])
