"""The gas within the body: neither the air around it nor that under the table."""

from __future__ import annotations

import numpy as np
import torch

from . import components, morphology
from .grid import CoarseScan

TISSUE_ABOVE_HU = -300.0
"""Between lung (-900 to -500 HU) and fat (-120 HU)."""

GAS_BELOW_HU = -420.0
"""Half-way between lung parenchyma near the pleura (-850 HU) and soft tissue (0 to 50 HU)."""

_PURE_AIR_BELOW_HU = -970.0
_SHARE_OF_PURE_AIR = 0.2  # foam, clothes and streaks take up much of the air around; lung has next to none of it
_DETACHING_RADIUS_MM = 2.5


def gas_within(scan: CoarseScan) -> torch.Tensor:
    """Return the gas and lung within the body, bool (z, y, x).

    What is not body is air around the patient where it reaches the edge of the field of view in its axial slice. Lung
    that the field of view cuts reaches it too, and is kept: it holds no pure air.
    """
    body = _body(scan)
    holes = components.in_slices(~body & scan.seen)
    at_edge = components.touching(holes, scan.edge_of_view)
    gas = scan.hounsfield < GAS_BELOW_HU
    pure_air = (scan.hounsfield < _PURE_AIR_BELOW_HU).to(torch.float32)
    around = at_edge & (holes.means(pure_air, gas) > _SHARE_OF_PURE_AIR)
    return holes.select(~around, gas.device) & gas


def _body(scan: CoarseScan) -> torch.Tensor:
    """Return the largest piece of tissue, without the table, which only thin shells connect to it."""
    tissue = scan.hounsfield > TISSUE_ABOVE_HU
    core = components.largest(morphology.erode(tissue, _DETACHING_RADIUS_MM, scan.spacing))
    if not bool(core.any()):
        core = components.largest(tissue)
    return morphology.dilate(core, _DETACHING_RADIUS_MM * 1.5, scan.spacing) & tissue


def middle_of_body(scan: CoarseScan) -> float:
    """Return the x index of the middle of the body's tissue."""
    weights = (scan.hounsfield > TISSUE_ABOVE_HU).sum(dim=(0, 1)).cpu().numpy().astype(np.float64)
    return float(np.average(np.arange(len(weights)), weights=weights)) if weights.sum() else (len(weights) - 1) / 2
