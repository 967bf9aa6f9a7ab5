"""Binary morphology of boxes of voxels, with radii in millimetres, on whichever device the mask lies."""

from __future__ import annotations

import torch

Spacing = tuple[float, float, float]


def dilate(mask: torch.Tensor, radius: float, spacing: Spacing) -> torch.Tensor:
    """Return `mask` grown by a ball.

    Parameters
    ----------
    mask
        bool (z, y, x).
    radius
        Of the ball [mm]. Below half a voxel along an axis the mask does not grow along it.
    spacing
        Of the voxels along (z, y, x) [mm].

    Notes
    -----
    The ball is a stack of rows: the mask is widened once for each row length, and the widened masks are shifted
    across rows and planes. That costs a few passes over a bool array for each row of the ball, not for each voxel.
    """
    rows = _rows_of_ball(radius, spacing)
    grown = torch.zeros_like(mask)
    widened = mask
    for half_width in range(max(rows.values()) + 1):
        if half_width:
            previous = widened
            widened = previous.clone()
            _combine_shifted(widened, previous, (0, 0, 1))
            _combine_shifted(widened, previous, (0, 0, -1))
        for (dz, dy), width in rows.items():
            if width == half_width:
                _combine_shifted(grown, widened, (dz, dy, 0))
    return grown


def erode(mask: torch.Tensor, radius: float, spacing: Spacing) -> torch.Tensor:
    """Return `mask` shrunk by a ball; beyond the edge of the box counts as part of the mask."""
    return ~dilate(~mask, radius, spacing)


def close(mask: torch.Tensor, radius: float, spacing: Spacing) -> torch.Tensor:
    """Return `mask` with what a ball can not enter filled in; nothing is lost at the edge of the box."""
    return erode(dilate(mask, radius, spacing), radius, spacing) | mask


def open_(mask: torch.Tensor, radius: float, spacing: Spacing) -> torch.Tensor:
    """Return the part of `mask` that a ball can reach from within."""
    return dilate(erode(mask, radius, spacing), radius, spacing) & mask


def grow_within(seed: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Return `seed` and those of its six-connected neighbours that are allowed: one step of region growing."""
    grown = seed.clone()
    for axis in range(3):
        for step in (-1, 1):
            shift = [0, 0, 0]
            shift[axis] = step
            _combine_shifted(grown, seed, (shift[0], shift[1], shift[2]))
    return grown & allowed | seed


def bounding_box(mask: torch.Tensor, margin: int = 0) -> tuple[slice, slice, slice]:
    """Return the smallest box that holds the mask, widened by `margin` voxels within the array.

    Raises
    ------
    ValueError
        If the mask is empty.
    """
    slices = []
    for axis, size in enumerate(mask.shape):
        others = tuple(other for other in range(3) if other != axis)
        held = mask.any(dim=others[1]).any(dim=others[0]).nonzero()
        if not len(held):
            raise ValueError("an empty mask has no bounding box")
        slices.append(slice(max(int(held[0]) - margin, 0), min(int(held[-1]) + 1 + margin, size)))
    return slices[0], slices[1], slices[2]


def _rows_of_ball(radius: float, spacing: Spacing) -> dict[tuple[int, int], int]:
    reach = [int(radius / length + 0.5) for length in spacing]
    # A ball in voxels has the radius of the count of voxels that it reaches, so that small balls stay round.
    radii = [max(count, 0.5) + 0.25 for count in reach]
    rows = {}
    for dz in range(-reach[0], reach[0] + 1):
        for dy in range(-reach[1], reach[1] + 1):
            left = 1.0 - (dz / radii[0]) ** 2 - (dy / radii[1]) ** 2
            if left >= 0:
                rows[dz, dy] = min(int(radii[2] * left**0.5), reach[2])
    return rows


def _combine_shifted(target: torch.Tensor, source: torch.Tensor, shift: tuple[int, int, int]) -> None:
    """Add to `target` every voxel of `source`, moved by `shift` voxels."""
    if any(abs(step) >= size for step, size in zip(shift, source.shape, strict=True)):
        return
    into = tuple(slice(max(step, 0), size + min(step, 0)) for step, size in zip(shift, source.shape, strict=True))
    taken = tuple(slice(max(-step, 0), size + min(-step, 0)) for step, size in zip(shift, source.shape, strict=True))
    target[into] |= source[taken]
