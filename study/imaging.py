"""What a model works on and what it found: volume, label map, segments, measurements, as plain values.

One convention holds everywhere: voxel arrays have the axes (slice, row, column); an affine maps the homogeneous index
(slice, row, column, 1) of a voxel's centre to patient coordinates [mm] in LPS, as DICOM has them (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.codes import Code

Affine = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SeriesVolume:
    """The images of one series as a box of voxels.

    Parameters
    ----------
    voxels
        float32 (slices, rows, columns), in the modality's units (HU for CT), slices in the direction of the normal.
    affine
        (4, 4), (slice, row, column, 1) to LPS [mm].
    sop_instance_uids
        One per slice, in slice order.
    padding
        bool (slices, rows, columns), where pixels are padding and no tissue; None where there is none.
    """

    voxels: NDArray[np.float32]
    affine: Affine
    sop_instance_uids: tuple[str, ...]
    padding: NDArray[np.bool_] | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Return the distance of voxel centres along (slice, row, column) [mm]."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(lengths[0]), float(lengths[1]), float(lengths[2]))

    @property
    def voxel_millilitres(self) -> float:
        """Return the volume of one voxel [mL]."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0


@dataclass(frozen=True)
class Segment:
    """One labelled structure of a label map (PS3.3 C.8.20.4).

    Parameters
    ----------
    value
        Its value in the label map, 1 or more.
    label
        Segment Label, as a radiologist reads it.
    category, property_type
        Segmented Property Category and Type.
    laterality
        Modifier of the type; None where the type itself says the side.
    rgb
        Recommended display colour, 0 to 255 each.
    """

    value: int
    label: str
    category: Code
    property_type: Code
    laterality: Code | None = None
    rgb: tuple[int, int, int] = (230, 159, 0)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Which voxel belongs to which segment, on the grid of the source series.

    Parameters
    ----------
    values
        uint8 or uint16 (slices, rows, columns); 0 is background.
    affine
        Equal to the source volume's.
    segments
        What each value stands for, also those without a voxel.
    """

    values: NDArray[np.uint8] | NDArray[np.uint16]
    affine: Affine
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Measurement:
    """A number with its meaning and unit.

    Parameters
    ----------
    derivation
        How it was derived (mean, ...); None where the name says it.
    """

    name: Code
    value: float
    unit: Code
    derivation: Code | None = None


@dataclass(frozen=True)
class Omission:
    """A measurement that is left out, and why."""

    name: Code
    reason: str


@dataclass(frozen=True)
class Finding:
    """What a report says about one region: a segment, or several together.

    Parameters
    ----------
    key
        Stable name of the region within the model ("right_lung"); result UIDs derive from it.
    label
        As a radiologist reads it; also the Tracking Identifier.
    finding, site
        What it is and where (TID 1411 Finding, Finding Site).
    segment_values
        The label map values of the region. One value ties it to that segment of the SEG.
    detected
        False: the model looked for it and found no voxel.
    incomplete
        Why the region is not whole in the images, in words; "" where it is whole.
    notes
        Further limits of use that concern this region, in words.
    """

    key: str
    label: str
    finding: Code
    site: Code
    segment_values: tuple[int, ...]
    measurements: tuple[Measurement, ...] = ()
    omissions: tuple[Omission, ...] = ()
    detected: bool = True
    incomplete: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelIdentity:
    """Who made a result: equal in Contributing Equipment, SR and algorithm identification.

    Parameters
    ----------
    digest
        SHA-256 over the bundle's files, hexadecimal.
    device_uid
        UID of this model on this node; changes when the model does.
    serial
        The node's serial number.
    """

    name: str
    version: str
    digest: str
    device_uid: str
    manufacturer: str
    software_version: str
    serial: str
    station_name: str = ""


@dataclass(frozen=True, eq=False)
class ResultSet:
    """All that one model says about one series; every result object is made of it.

    Parameters
    ----------
    label_map
        None for a model without a segmentation.
    limits
        Limits of use that concern the whole result, in words (geometry on record, ...).
    """

    label_map: LabelMap | None
    findings: tuple[Finding, ...]
    limits: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
