"""The network of the bundle: CT lung segmentation by thresholds, growth and morphology, as a torch module."""

from __future__ import annotations

import torch

from . import morphology
from .airway import airway
from .body import gas_within
from .grid import CoarseScan, coarsen, refine
from .lungs import lungs

RIGHT_LUNG = 1
LEFT_LUNG = 2

_LUNG_BELOW_HU = -350.0
_SURELY_INSIDE = 0.95
_SURELY_OUTSIDE = 0.05


class LungSegmenter(torch.nn.Module):
    """Finds right and left lung, without trachea and main bronchi and with the vessels inside.

    It has no trained weights. The anatomy is sorted out on blocks of about 2 mm; the surface is then drawn by a
    threshold on the voxels of the scan.
    """

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the label map: 1 right lung, 2 left lung, 0 elsewhere; all 0 if there are no lungs in view.

        Parameters
        ----------
        image
            MetaTensor (1, 1, x, y, z) [HU], x toward the patient's left, y toward the back, z toward the head; its
            affine gives the spacing.

        Returns
        -------
        torch.Tensor
            uint8 (1, 1, x, y, z).

        Raises
        ------
        ValueError
            If the image is no such tensor.
        """
        if image.ndim != 5 or image.shape[0] != 1 or image.shape[1] != 1 or not hasattr(image, "affine"):
            raise ValueError("the lung segmenter takes one image, (1, 1, x, y, z), with an affine")
        lengths = torch.as_tensor(image.affine).reshape(-1, 4, 4)[0, :3, :3].norm(dim=0)
        voxels = torch.as_tensor(image)
        voxels = (voxels.as_tensor() if hasattr(voxels, "as_tensor") else voxels)[0, 0].permute(2, 1, 0)
        labels = segment(voxels, (float(lengths[2]), float(lengths[1]), float(lengths[0])))
        return labels.permute(2, 1, 0)[None, None]


def segment(voxels: torch.Tensor, spacing: morphology.Spacing) -> torch.Tensor:
    """Return the label map of a scan.

    Parameters
    ----------
    voxels
        float (z, y, x) [HU], z toward the head, y toward the back, x toward the patient's left.
    spacing
        Along (z, y, x) [mm].

    Returns
    -------
    torch.Tensor
        uint8 (z, y, x).
    """
    scan = coarsen(voxels, spacing)
    gas = gas_within(scan)
    tube = airway(scan, gas)
    found = lungs(scan, gas, tube)
    labels = torch.zeros(voxels.shape, dtype=torch.uint8, device=voxels.device)
    if found is None:
        return labels
    for value, side in ((RIGHT_LUNG, found.right), (LEFT_LUNG, found.left)):
        if bool(side.any()):
            _draw(labels, value, side, tube, scan, voxels)
    return labels


def _draw(
    labels: torch.Tensor, value: int, side: torch.Tensor, tube: torch.Tensor, scan: CoarseScan, voxels: torch.Tensor
) -> None:
    """Write one lung into the label map, its surface drawn by the threshold on the voxels of the scan."""
    box = morphology.bounding_box(side, margin=1)
    # Beside the airway the surface lies half-way, whatever the voxels hold there: they may be of the lumen.
    field = side.float() - tube.float()
    for where, inside in refine(field, scan, voxels.shape, box):
        lung = (inside > _SURELY_INSIDE) | (voxels[where] < _LUNG_BELOW_HU) & (inside > _SURELY_OUTSIDE)
        part = labels[where]
        part.masked_fill_(lung & (part == 0), value)
