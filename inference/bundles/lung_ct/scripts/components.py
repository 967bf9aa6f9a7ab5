"""Connected components of masks, in space and slice by slice, with what is measured on each."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

_IN_PLANE = np.zeros((3, 3, 3), dtype=bool)
_IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True, eq=False)
class Components:
    """The connected components of a mask.

    Parameters
    ----------
    labels
        (z, y, x), 0 outside of the mask, else 1..count.
    count
        How many there are.
    """

    labels: NDArray[np.integer]
    count: int

    def sizes(self) -> NDArray[np.int64]:
        """Return the voxels of each label, background first."""
        return np.bincount(self.labels.ravel(), minlength=self.count + 1)

    def means(self, values: torch.Tensor, where: torch.Tensor) -> NDArray[np.float64]:
        """Return the mean of `values` (z, y, x) in each label, background first, over the voxels of `where`."""
        chosen = where.cpu().numpy()
        labels = self.labels[chosen]
        sums = np.bincount(labels, weights=values.cpu().numpy()[chosen], minlength=self.count + 1)
        return sums / np.maximum(np.bincount(labels, minlength=self.count + 1), 1)

    def boxes(self) -> list[tuple[slice, slice, slice]]:
        """Return the bounding box of each label from 1 on."""
        found = ndimage.find_objects(self.labels, max_label=self.count)
        return [(box[0], box[1], box[2]) for box in found]

    def select(self, chosen: NDArray[np.bool_], device: torch.device) -> torch.Tensor:
        """Return where the label is one of the chosen; `chosen` has an entry per label, background first."""
        chosen = chosen.copy()
        chosen[0] = False
        return torch.from_numpy(chosen[self.labels]).to(device)


def in_space(mask: torch.Tensor) -> Components:
    """Return the components of voxels that share a face."""
    labels, count = cc3d.connected_components(mask.cpu().numpy(), connectivity=6, return_N=True)
    return Components(labels, int(count))


def in_slices(mask: torch.Tensor) -> Components:
    """Return the components of pixels that share an edge within their slice (along z)."""
    labels, count = ndimage.label(mask.cpu().numpy(), structure=_IN_PLANE)
    return Components(labels, int(count))


def largest(mask: torch.Tensor) -> torch.Tensor:
    """Return the largest component of the mask; an empty mask stays empty."""
    components = in_space(mask)
    sizes = components.sizes()
    sizes[0] = 0
    chosen = np.zeros(components.count + 1, dtype=bool)
    chosen[int(np.argmax(sizes))] = True
    return components.select(chosen, mask.device)


def touching(components: Components, where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return for each label, background first, whether it has a voxel in `where` (broadcast over z)."""
    touched = np.zeros(components.count + 1, dtype=bool)
    touched[np.unique(components.labels[:, where])] = True
    touched[0] = False
    return touched
