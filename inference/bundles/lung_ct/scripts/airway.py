"""Trachea and main bronchi: found as a tube that runs down from the neck, followed past the carina, and stopped there.

The lumen is air (-1000 HU), the lung around it is not (-900 to -700 HU), and a wall lies between. In the trachea the
cross-sections are compared slice by slice; below, the lumen is grown step by step, and growth ends where it leaks.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from . import components, morphology
from .body import middle_of_body
from .grid import CoarseScan

WALL_MM = 2.0
"""Trachea and main bronchi have walls of 1 to 3 mm, which count with the airway."""

_LUMEN_BELOW_HU = -880.0
_TRACHEA_MM2 = (40.0, 900.0)  # cross-section; up to 25 mm wide in men, and little of it is left in thick voxels
_FURTHEST_FROM_MIDDLE_MM = 60.0
_FILLS_ITS_BOX = 0.45  # a circle fills 0.79 of its bounding box, an oblique slit of lung far less
_SHORTEST_TRACHEA_MM = 20.0
_BRONCHIAL_RADIUS_MM = 2.0  # main bronchi have lumina of 9 to 16 mm; what is narrower than 4 mm is no way through
_RIM_MM = 3.0
_REACH_BELOW_MM = 40.0
_REACH_BESIDE_MM = 50.0
_LEAK_MM2 = 900.0  # the front that grows through both main bronchi at once is well below it


def airway(scan: CoarseScan, gas: torch.Tensor) -> torch.Tensor:
    """Return trachea and main bronchi with their walls, bool (z, y, x); empty where no trachea is found."""
    lumen = gas & (scan.hounsfield < _LUMEN_BELOW_HU)
    trachea = _trachea(scan, lumen)
    if not bool(trachea.any()):
        return trachea
    threshold = _threshold_between_air_and_lung(scan, gas, trachea)
    grown = trachea | _bronchi(scan, gas & (scan.hounsfield < threshold), trachea)
    return morphology.dilate(grown, WALL_MM, scan.spacing)


def _trachea(scan: CoarseScan, lumen: torch.Tensor) -> torch.Tensor:
    """Return the longest run of cross-sections that may be a trachea's."""
    sections = components.in_slices(lumen)
    tube = sections.select(_may_be_trachea(scan, sections), lumen.device)
    runs = components.in_space(tube)
    lengths = [(box[0].stop - box[0].start) * scan.spacing[0] for box in runs.boxes()]
    chosen = np.zeros(runs.count + 1, dtype=bool)
    if lengths and max(lengths) >= _SHORTEST_TRACHEA_MM:
        # Of runs that are about as long, the one nearest the head: a bronchus or a gas-filled oesophagus lies lower.
        long_ones = [index for index, length in enumerate(lengths) if length >= 0.6 * max(lengths)]
        tops = [runs.boxes()[index][0].stop for index in long_ones]
        chosen[long_ones[int(np.argmax(tops))] + 1] = True
    return runs.select(chosen, lumen.device)


def _may_be_trachea(scan: CoarseScan, sections: components.Components) -> NDArray[np.bool_]:
    chosen = np.zeros(sections.count + 1, dtype=bool)
    if not sections.count:
        return chosen
    boxes = sections.boxes()
    heights = np.array([box[1].stop - box[1].start for box in boxes])
    widths = np.array([box[2].stop - box[2].start for box in boxes])
    middles = np.array([(box[2].start + box[2].stop - 1) / 2 for box in boxes])
    sizes = sections.sizes()[1:]
    areas = sizes * scan.spacing[1] * scan.spacing[2]
    aside = np.abs(middles - middle_of_body(scan)) * scan.spacing[2]
    chosen[1:] = (
        (areas >= _TRACHEA_MM2[0])
        & (areas <= _TRACHEA_MM2[1])
        & (aside <= _FURTHEST_FROM_MIDDLE_MM)
        & (sizes >= _FILLS_ITS_BOX * heights * widths)
    )
    return chosen


def _threshold_between_air_and_lung(scan: CoarseScan, gas: torch.Tensor, trachea: torch.Tensor) -> float:
    """Return the value half-way between the air of the trachea and the typical lung [HU]."""
    air = float(scan.hounsfield[trachea].median())
    lung = float(scan.hounsfield[gas & ~trachea].median()) if bool((gas & ~trachea).any()) else _LUMEN_BELOW_HU
    return min(max((air + lung) / 2, -960.0), _LUMEN_BELOW_HU)


def _bronchi(scan: CoarseScan, lumen: torch.Tensor, trachea: torch.Tensor) -> torch.Tensor:
    """Return what grows from the trachea through lumina as wide as main bronchi."""
    region = _around_trachea(scan, trachea)
    seed = trachea[region]
    wide = morphology.open_(lumen[region], _BRONCHIAL_RADIUS_MM, scan.spacing) | seed
    # The run that was found may lead into one of the bronchi: the whole of it is the seed, with the rim of the lumen.
    rim = morphology.dilate(seed, _RIM_MM, scan.spacing) & wide
    grown = torch.zeros_like(trachea)
    grown[region] = _grow_until_leak(rim, wide, scan)
    return grown


def _around_trachea(scan: CoarseScan, trachea: torch.Tensor) -> tuple[slice, slice, slice]:
    planes, rows, columns = morphology.bounding_box(trachea)
    below, beside = int(_REACH_BELOW_MM / scan.spacing[0]), [int(_REACH_BESIDE_MM / length) for length in scan.spacing]
    return (
        slice(max(planes.start - below, 0), planes.stop),
        slice(max(rows.start - beside[1], 0), rows.stop + beside[1]),
        slice(max(columns.start - beside[2], 0), columns.stop + beside[2]),
    )


def _grow_until_leak(seed: torch.Tensor, allowed: torch.Tensor, scan: CoarseScan) -> torch.Tensor:
    """Grow the seed through what is allowed, voxel layer by voxel layer, until a layer is too large for bronchi."""
    layer = float(np.cbrt(scan.voxel_millilitres * 1000.0))  # the thickness of one layer of growth, about [mm]
    limit = _LEAK_MM2 * layer / (scan.voxel_millilitres * 1000.0)
    reach = int((_REACH_BELOW_MM + _REACH_BESIDE_MM) / min(scan.spacing))
    grown, size = seed, int(seed.sum())
    for _ in range(reach):
        further = morphology.grow_within(grown, allowed)
        added = int(further.sum()) - size
        if added == 0 or added > limit:
            break
        grown, size = further, size + added
    return grown
