"""An asymmetric voxel keeps its place in the patient from the series through label map, Segmentation and read-back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread

from sr_writer.checking.seg import check_seg
from sr_writer.files import save
from sr_writer.picture.viewing import edge_letters, towards_viewer
from sr_writer.reading.segmentation import frame_mask, source_key
from sr_writer.seg.writing import write_seg
from study.geometry import assess
from study.headers import InstanceHeader
from tests.support.results import CONTEXT, MODEL, result_of
from tests.support.series import ct_series

Affine = NDArray[np.float64]
SHAPE = (5, 6, 7)


@st.composite
def affines(draw: st.DrawFn) -> Affine:
    """Draw any right- or left-handed orthogonal grid: (slice, row, column, 1) to LPS."""
    matrix = np.array(draw(st.lists(st.floats(-1, 1), min_size=9, max_size=9))).reshape(3, 3) + np.eye(3) * 2.5
    directions, _ = np.linalg.qr(matrix)
    directions = directions[:, draw(st.permutations(range(3)))]
    directions = directions * np.array(draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3)))
    spacing = np.array(draw(st.lists(st.floats(0.5, 5.0), min_size=3, max_size=3)))
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = draw(st.lists(st.floats(-300, 300), min_size=3, max_size=3))
    return affine


@settings(deadline=None, max_examples=40)
@given(affine=affines(), seed=st.integers(0, 1000))
def test_a_voxel_keeps_its_place_in_the_patient(affine: Affine, seed: int) -> None:
    random = np.random.default_rng(seed)
    series = ct_series(np.zeros(SHAPE), affine)
    shuffled = [series[index] for index in random.permutation(len(series))]
    geometry = assess([InstanceHeader.of(dataset) for dataset in shuffled])
    sources = [shuffled[index] for index in geometry.order]
    voxel = tuple(int(random.integers(size)) for size in SHAPE)
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[voxel] = 1
    expected = (geometry.affine @ (*voxel, 1))[:3]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seg.dcm"
        save(write_seg(result_of(values, geometry.affine), sources, MODEL, CONTEXT), path)
        check_seg(path, sources)
        seg = dcmread(path)
    (frame,) = seg.PerFrameFunctionalGroupsSequence
    ((row, column),) = np.argwhere(frame_mask(seg.PixelData, 0, seg.Rows, seg.Columns))
    assert source_key(frame)[0] == sources[voxel[0]].SOPInstanceUID
    # The frame's own plane, as any reader of the Segmentation alone maps it (PS3.3 C.7.6.2.1.1)
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    row_spacing, column_spacing = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
    found = origin + cosines[:3] * column_spacing * column + cosines[3:] * row_spacing * row
    assert np.abs(found - expected).max() < 1e-3
    # ... and the series itself: nothing of this goes through the writer
    index = next(i for i, dataset in enumerate(series) if dataset.SOPInstanceUID == source_key(frame)[0])
    assert np.abs((affine @ (index, row, column, 1))[:3] - expected).max() < 1e-2


@given(affine=affines())
def test_the_viewers_axes_run_to_feet_back_and_left(affine: Affine) -> None:
    indices = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    places = indices @ affine[:3, :3].T
    along = [towards_viewer(places[..., axis], affine)[0] for axis in range(3)]
    # Feet are at low z; the back at high y and the left at high x: each axis runs more that way than the other
    for axis, (shown, sign) in enumerate(((along[2], -1), (along[1], 1), (along[0], 1))):
        first, last = np.take(shown, 0, axis=axis), np.take(shown, -1, axis=axis)
        assert sign * (last.mean() - first.mean()) >= -1e-9


def test_letters_at_the_edges_of_source_images() -> None:
    axial = np.diag([2.0, 1, 1, 1])[:, [2, 1, 0, 3]]
    assert edge_letters(axial) == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    prone = axial * np.array([[-1], [-1], [1], [1]])
    assert edge_letters(prone) == {"left": "L", "right": "R", "top": "P", "bottom": "A"}
    sagittal = np.zeros((4, 4))
    sagittal[0, 0], sagittal[2, 1], sagittal[1, 2], sagittal[3, 3] = 1, -1, 1, 1
    assert edge_letters(sagittal) == {"left": "A", "right": "P", "top": "H", "bottom": "F"}
