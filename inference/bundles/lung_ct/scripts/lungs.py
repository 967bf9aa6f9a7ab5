"""Right and left lung: which gas is lung, on which side of the patient, and where two that touch are parted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from . import components, morphology
from .body import middle_of_body
from .grid import CoarseScan

CLOSING_MM = 3.0
"""Vessels and small consolidations up to twice this within a lung belong to it; the hilum does not."""

_FREE_GAS_BELOW_HU = (
    -960.0
)  # stomach and bowel hold air; emphysema that leaves so little tissue in a whole lung is not seen
_SMALLEST_LUNG_ML = 60.0
_SMALLEST_PIECE_ML = 1.0
_SMALLEST_SHARE = 0.05
_LUNGS_APART_MM = 60.0  # the middles of two lungs lie 120 mm apart and more; those of two lobes of one side do not
_PARTING_RADII_MM = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0, 18.0, 22.0)


@dataclass(frozen=True, eq=False)
class Lungs:
    """Both lungs on the coarse grid, bool (z, y, x) each; empty where there is none."""

    right: torch.Tensor
    left: torch.Tensor


def lungs(scan: CoarseScan, gas: torch.Tensor, airway: torch.Tensor) -> Lungs | None:
    """Return the lungs, closed over their vessels and without the airway; None if there are none in view."""
    pieces = components.in_space(gas & ~airway)
    means = pieces.means(scan.hounsfield, gas)
    volumes = pieces.sizes() * scan.voxel_millilitres
    volumes[0] = 0.0
    lung = (means > _FREE_GAS_BELOW_HU) & (volumes >= _SMALLEST_PIECE_ML)
    volumes[~lung] = 0.0
    if volumes.max() < _SMALLEST_LUNG_ML:
        return None
    large = lung & (volumes >= max(_SMALLEST_SHARE * volumes.max(), _SMALLEST_PIECE_ML))
    device = scan.hounsfield.device
    sides = _sides(scan, pieces.select(large, device), airway)
    return Lungs(*(_whole(side, airway, scan) for side in sides))


def _sides(scan: CoarseScan, mask: torch.Tensor, airway: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the right and the left part of the lungs."""
    middle = _middle(scan, airway)
    parted = _part(mask, scan)
    centres = [float(_centre_x(piece)) for piece in parted]
    if len(parted) == 1:
        empty = torch.zeros_like(mask)
        return (parted[0], empty) if centres[0] < middle else (empty, parted[0])
    right, left = (parted[0], parted[1]) if centres[0] < centres[1] else (parted[1], parted[0])
    return right, left


def _middle(scan: CoarseScan, airway: torch.Tensor) -> float:
    """Return the x index of the patient's middle: where the trachea is, else the middle of the body."""
    return _centre_x(airway) if bool(airway.any()) else middle_of_body(scan)


def _centre_x(mask: torch.Tensor) -> float:
    weights = mask.sum(dim=(0, 1)).double()
    return float((weights * torch.arange(len(weights), device=mask.device)).sum() / weights.sum())


def _part(mask: torch.Tensor, scan: CoarseScan) -> tuple[torch.Tensor, ...]:
    """Return the mask in two parts, one per side, or whole if it is one lung.

    Where the lungs touch, at the anterior or posterior junction line, the mask is shrunk until it falls into two cores
    side by side; each voxel then goes to the core that reaches it first.
    """
    cores = _cores(mask, scan)
    radius_index = 0
    shrunk = mask
    while cores is None and radius_index < len(_PARTING_RADII_MM):
        shrunk = morphology.erode(mask, _PARTING_RADII_MM[radius_index], scan.spacing)
        cores = _cores(shrunk, scan)
        radius_index += 1
    if cores is None:
        return (mask,)
    return _spread(cores, mask)


def _cores(mask: torch.Tensor, scan: CoarseScan) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the two groups of components that lie side by side, if the mask consists of two such groups."""
    pieces = components.in_space(mask)
    volumes = pieces.sizes().astype(np.float64)
    volumes[0] = 0.0
    centres = np.array([(box[2].start + box[2].stop - 1) / 2 for box in pieces.boxes()])
    if len(centres) < 2:
        return None
    order = np.argsort(volumes)[::-1]
    first = int(order[0])
    apart = np.abs(centres - centres[first - 1]) * scan.spacing[2] >= _LUNGS_APART_MM
    others = [int(label) for label in order if label and apart[label - 1]]
    if not others or volumes[others[0]] < _SMALLEST_SHARE * volumes[first]:
        return None
    second = others[0]
    nearer_first = np.abs(centres - centres[first - 1]) <= np.abs(centres - centres[second - 1])
    of_first = np.concatenate([[False], nearer_first])
    of_second = np.concatenate([[False], ~nearer_first])
    return pieces.select(of_first, mask.device), pieces.select(of_second, mask.device)


def _spread(cores: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Grow both cores at the same pace until the mask is shared out."""
    first, second = cores
    free = mask & ~first & ~second
    while bool(free.any()):
        grown_first = morphology.grow_within(first, free)
        grown_second = morphology.grow_within(second, free & ~grown_first)
        free = free & ~grown_first & ~grown_second
        if bool((grown_first == first).all()) and bool((grown_second == second).all()):
            break
        first, second = grown_first, grown_second
    return first, second


def _whole(side: torch.Tensor, airway: torch.Tensor, scan: CoarseScan) -> torch.Tensor:
    """Return one lung with the vessels in it, and without the airway."""
    if not bool(side.any()):
        return side
    margin = int(CLOSING_MM / min(scan.spacing)) + 2
    box = morphology.bounding_box(side, margin)
    closed = morphology.close(side[box], CLOSING_MM, scan.spacing)
    whole = torch.zeros_like(side)
    whole[box] = _without_holes(closed) & ~airway[box]
    return whole


def _without_holes(mask: torch.Tensor) -> torch.Tensor:
    """Return the mask with every cavity filled that does not reach the edge of the box."""
    outside = components.in_space(~mask)
    planes = outside.labels
    faces = [planes[0], planes[-1], planes[:, 0], planes[:, -1], planes[:, :, 0], planes[:, :, -1]]
    reached = np.zeros(outside.count + 1, dtype=bool)
    reached[np.unique(np.concatenate([face.ravel() for face in faces]))] = True
    return ~outside.select(reached, mask.device)
