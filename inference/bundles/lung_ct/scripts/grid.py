"""The coarse grid on which the anatomy is sorted out, and the way back to the voxels of the scan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from .morphology import Spacing

COARSE_MM = 2.0
"""Walls of the trachea and the lungs' junction lines are 1 to 3 mm: coarser voxels would lose them."""

_SLAB = 16


@dataclass(frozen=True, eq=False)
class CoarseScan:
    """A scan averaged over blocks of voxels.

    Parameters
    ----------
    hounsfield
        float32 (z, y, x), z toward the head, y toward the back, x toward the patient's left [HU].
    factors
        Voxels of the scan per coarse voxel along (z, y, x).
    spacing
        Of the coarse voxels along (z, y, x) [mm].
    in_view
        bool (y, x), where the scanner reconstructed an image: all, or about a circle.
    """

    hounsfield: torch.Tensor
    factors: tuple[int, int, int]
    spacing: Spacing
    in_view: torch.Tensor

    @property
    def seen(self) -> torch.Tensor:
        """Return `in_view`, broadcast over z."""
        return self.in_view[None]

    @property
    def edge_of_view(self) -> NDArray[np.bool_]:
        """Return the outermost pixels of the field of view, bool (y, x)."""
        inside = np.pad(self.in_view.cpu().numpy(), 1)
        core = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        edge: NDArray[np.bool_] = inside[1:-1, 1:-1] & ~core
        return edge

    @property
    def voxel_millilitres(self) -> float:
        """Return the volume of a coarse voxel [mL]."""
        return self.spacing[0] * self.spacing[1] * self.spacing[2] / 1000.0


def coarsen(voxels: torch.Tensor, spacing: Spacing) -> CoarseScan:
    """Return the scan on blocks of about 2 mm; slices thicker than that stay as they are.

    Parameters
    ----------
    voxels
        float (z, y, x) [HU].
    spacing
        Along (z, y, x) [mm].
    """
    factors = [max(1, int(COARSE_MM / length + 0.01)) for length in spacing]
    # A block must fit at least twice; the last one of an axis may be smaller, and averages what there is.
    factors = [factor if size >= 2 * factor else 1 for factor, size in zip(factors, voxels.shape, strict=True)]
    depth, height, width = factors
    planes = [
        functional.avg_pool2d(_mean(voxels[start : start + depth]), (height, width), ceil_mode=True)
        for start in range(0, voxels.shape[0], depth)
    ]
    coarse = torch.cat(planes)
    return CoarseScan(
        hounsfield=coarse,
        factors=(depth, height, width),
        spacing=(spacing[0] * depth, spacing[1] * height, spacing[2] * width),
        in_view=_in_view(coarse),
    )


def refine(
    field: torch.Tensor, scan: CoarseScan, shape: torch.Size, box: tuple[slice, slice, slice]
) -> Iterator[tuple[tuple[slice, slice, slice], torch.Tensor]]:
    """Yield slabs of `field` on the voxels of the scan, with where they lie.

    Parameters
    ----------
    field
        float (z, y, x) on the coarse grid; interpolated linearly.
    shape
        Of the scan, (z, y, x).
    box
        The part of the coarse grid that is wanted.
    """
    depth, height, width = scan.factors
    planes, rows, columns = box
    fine_rows = slice(rows.start * height, min(rows.stop * height, shape[1]))
    fine_columns = slice(columns.start * width, min(columns.stop * width, shape[2]))
    thickness = max(1, _SLAB // depth)
    for start in range(planes.start, planes.stop, thickness):
        stop = min(start + thickness, planes.stop)
        # One plane more on either side, so that slabs join without a seam.
        low, high = max(start - 1, 0), min(stop + 1, field.shape[0])
        coarse = field[low:high, rows, columns][None, None]
        fine = functional.interpolate(coarse, scale_factor=scan.factors, mode="trilinear", align_corners=False)
        fine_planes = slice(start * depth, min(stop * depth, shape[0]))
        offset = (start - low) * depth
        yield (
            (fine_planes, fine_rows, fine_columns),
            fine[
                0,
                0,
                offset : offset + fine_planes.stop - fine_planes.start,
                : fine_rows.stop - fine_rows.start,
                : fine_columns.stop - fine_columns.start,
            ],
        )


def _mean(planes: torch.Tensor) -> torch.Tensor:
    """Return the mean of some planes as one plane, float32 (1, y, x)."""
    total = planes[0].to(torch.float32, copy=True)
    for plane in planes[1:]:
        total += plane
    return (total / len(planes))[None].contiguous()


def _in_view(coarse: torch.Tensor) -> torch.Tensor:
    """Return where there is an image: outside of a reconstruction circle every slice holds the corners' value.

    The circle is the smallest around the middle that holds whatever differs from the corners.
    """
    corners = coarse[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    blank = coarse[0, 0, 0]
    if not bool((corners == blank).all()):
        return torch.ones_like(coarse[0], dtype=torch.bool)
    image = (coarse.amin(dim=0) != blank) | (coarse.amax(dim=0) != blank)
    height, width = image.shape
    down = torch.arange(height, device=coarse.device, dtype=torch.float32)[:, None] - (height - 1) / 2
    across = torch.arange(width, device=coarse.device, dtype=torch.float32)[None] - (width - 1) / 2
    squared = down.square() + across.square()
    return squared <= (squared * image).amax()
