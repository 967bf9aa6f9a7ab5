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
from sr_writer.picture.directions import edge_letters
from sr_writer.picture.stack import Stack
from sr_writer.reading.frames import source_key
from sr_writer.reading.segmentation import frame_mask
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
        (written,) = write_seg(result_of(values, geometry.affine), sources, MODEL, CONTEXT)
        save(written, path)
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


@settings(deadline=None, max_examples=12)
@given(affine=affines(), seed=st.integers(0, 1000))
def test_a_voxel_is_where_it_belongs_on_a_plane_across_the_slices(affine: Affine, seed: int) -> None:
    random = np.random.default_rng(seed)
    stack = Stack.of(ct_series(np.zeros(SHAPE), affine))
    assert stack is not None
    voxel = tuple(int(random.integers(size)) for size in SHAPE)
    point = (affine @ (*voxel, 1))[:3]
    step = float(np.linalg.norm(affine[:3, :3], axis=0).min()) / 4
    for axis, plane in enumerate(("sagittal", "coronal", "axial")):
        cut = stack.cut(plane, float(point[axis]), step)
        row = round(float((point - cut.corner) @ cut.down) / step**2)
        column = round(float((point - cut.corner) @ cut.right) / step**2)
        asked = row * cut.shape[1] + column
        found = [
            (index, int(rows[place]), int(columns[place]))
            for index, where, rows, columns in stack.nearest_on(cut)
            for place in np.flatnonzero(where == asked)
        ]
        assert found == [voxel]
        # Right is on the left, front is up or on the left, head is up
        assert (
            cut.letters
            == {
                "axial": {"left": "R", "right": "L", "top": "A", "bottom": "P"},
                "coronal": {"left": "R", "right": "L", "top": "H", "bottom": "F"},
                "sagittal": {"left": "A", "right": "P", "top": "H", "bottom": "F"},
            }[plane]
        )


def test_letters_at_the_edges_of_source_images() -> None:
    axial = np.diag([2.0, 1, 1, 1])[:, [2, 1, 0, 3]]
    assert letters(axial) == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    prone = axial * np.array([[-1], [-1], [1], [1]])
    assert letters(prone) == {"left": "L", "right": "R", "top": "P", "bottom": "A"}
    sagittal = np.zeros((4, 4))
    sagittal[0, 0], sagittal[2, 1], sagittal[1, 2], sagittal[3, 3] = 1, -1, 1, 1
    assert letters(sagittal) == {"left": "A", "right": "P", "top": "H", "bottom": "F"}
    slanted = axial.copy()
    slanted[:3, 2] = np.cos(0.5), -np.sin(0.5), 0
    slanted[:3, 1] = np.sin(0.5), np.cos(0.5), 0
    assert letters(slanted) == {"left": "RP", "right": "LA", "top": "AR", "bottom": "PL"}


def letters(affine: Affine) -> dict[str, str]:
    return edge_letters(ct_series(np.zeros((1, 2, 2)), affine)[0])
