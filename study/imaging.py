"""What a model works on and what it found: volume, label map, segments, measurements, as plain values.

One convention holds everywhere: voxel arrays have the axes (slice, row, column); an affine maps the homogeneous index
(slice, row, column, 1) of a voxel's centre to patient coordinates [mm] in LPS, as DICOM has them (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study import codes
from study.codes import Code

Affine = NDArray[np.float64]
Labels = NDArray[np.uint8] | NDArray[np.uint16]


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
    region
        Anatomic Region that the structure lies in, as for a tumour; None where the type says it.
    rgb
        Recommended display colour, 0 to 255 each.
    """

    value: int
    label: str
    category: Code
    property_type: Code
    laterality: Code | None = None
    region: Code | None = None
    rgb: tuple[int, int, int] = (230, 159, 0)

    @property
    def is_anatomy(self) -> bool:
        """Tell whether it is a part of the body, and no abnormality."""
        return codes.is_anatomy(self.category)

    @property
    def side_is_of_region(self) -> bool:
        """Tell whether its laterality is the region's that it lies in, and not its own.

        A kidney has a side. A tumour has none, but the lung that it is in has: where a region is given, the side of
        what is no anatomy itself is the region's.
        """
        return self.region is not None and not self.is_anatomy


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
    further_layers
        Where segments overlap: more arrays like `values`. Each value stands in one layer only, so that within a layer
        a voxel belongs to one segment at most.
    offsets
        Where the source slices are unevenly spaced: the place of each along their normal, from the first [mm]. The
        affine then gives directions, spacing within the plane and the first position; its slice step means nothing.
    """

    values: Labels
    affine: Affine
    segments: tuple[Segment, ...]
    further_layers: tuple[Labels, ...] = ()
    offsets: tuple[float, ...] = ()

    @property
    def layers(self) -> tuple[Labels, ...]:
        """Return every layer; a single one where no segments overlap."""
        return (self.values, *self.further_layers)

    def mask(self, index: int, values: Sequence[int]) -> NDArray[np.bool_]:
        """Return bool (rows, columns), where slice `index` has one of the values."""
        found = np.zeros(self.values.shape[1:], dtype=np.bool_)
        for layer in self.layers:
            for value in values:
                found |= layer[index] == value
        return found


@dataclass(frozen=True)
class EarlierSeries:
    """A series of an earlier study of the same patient, with which a result is compared.

    Parameters
    ----------
    study_date, study_time
        As DICOM has them (DA, TM); there is always a date.
    """

    study_instance_uid: str
    series_instance_uid: str
    study_date: str
    study_time: str = ""
    series_number: int | None = None
    series_description: str = ""
    modality: str = ""


@dataclass(frozen=True)
class EarlierValue:
    """What was measured of the same thing in the same way in an earlier series, in the same unit."""

    series: EarlierSeries
    value: float


@dataclass(frozen=True)
class Measurement:
    """A number with its meaning and unit.

    Parameters
    ----------
    derivation
        How it was derived (mean, ...); None where the name says it.
    earlier
        The same in earlier studies, the latest first.
    """

    name: Code
    value: float
    unit: Code
    derivation: Code | None = None
    earlier: tuple[EarlierValue, ...] = ()


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
    laterality
        Side of the site; None where the site itself says it, or there is none.
    segment_values
        The label map values of the region. One value ties it to that segment of the SEG.
    detected
        False: the model looked for it and found no voxel.
    incomplete
        Why the region is not whole in the images, in words; "" where it is whole.
    notes
        Further limits of use that concern this region, in words.
    earlier_notes
        What is to be said of it beside earlier studies, in words that name their dates: no picture may show them.
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
    laterality: Code | None = None
    earlier_notes: tuple[str, ...] = ()

    @property
    def incomplete_words(self) -> str:
        """Return in a sentence that the region is not whole, and why; "" where it is whole."""
        return f"Incomplete: {self.incomplete.removeprefix('incomplete: ')}" if self.incomplete else ""


@dataclass(frozen=True)
class Assessment:
    """What a model says of a whole series or image, without a region: a class with its probability, or numbers.

    Parameters
    ----------
    key
        Stable name within the model; result UIDs derive from it.
    label
        As a radiologist reads it; also the Tracking Identifier.
    finding, site
        What it is about, and where; `site` is None where nothing says it.
    probability
        0 to 1; None for an assessment that is numbers alone.
    detected
        What the model decides: the class is present, or is the one chosen; None where there is no decision.
    slices
        Indices of the images that it is about; empty: of all.
    """

    key: str
    label: str
    finding: Code
    site: Code | None = None
    probability: float | None = None
    detected: bool | None = None
    measurements: tuple[Measurement, ...] = ()
    slices: tuple[int, ...] = ()
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
    assessments
        What is said of the series or of single images, without a region.
    earlier
        The earlier series that were compared with, or given to the model, the latest first.
    earlier_limits
        Limits of a comparison with them, in words that name their dates: no picture may show them.
    not_compared
        Why others are not compared with, or none is; likewise.
    """

    label_map: LabelMap | None
    findings: tuple[Finding, ...]
    limits: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    assessments: tuple[Assessment, ...] = ()
    earlier: tuple[EarlierSeries, ...] = ()
    earlier_limits: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()
