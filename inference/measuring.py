"""What a report says in numbers: volume and attenuation of each region, and why a number is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inference.catalog import ModelCard
from inference.densitometry import LAA_THRESHOLD_HU, LOW_PERCENTILE
from inference.naming import PlannedFinding
from study.codes import (
    ATTENUATION,
    HOUNSFIELD_UNIT,
    LAA_950,
    MEAN,
    MILLILITRE,
    PERCENT,
    PERCENTILE_15,
    VOLUME,
    Code,
)
from study.imaging import Finding, LabelMap, Labels, Measurement, Omission, SeriesVolume

_NAMES: Final[dict[str, Code]] = {
    "volume": VOLUME,
    "mean_attenuation": ATTENUATION,
    "laa_950": LAA_950,
    "percentile_15": PERCENTILE_15,
}
_LIMITED: Final = {"laa_950", "percentile_15"}  # meaningful only as `inference.densitometry` says
_FRACTION_OF_PADDING: Final = 5e-3
_MOST_OF_THE_IMAGE: Final = 0.5
_FEW: Final = 8


@dataclass(frozen=True, eq=False)
class _Region:
    """One segment in the volume: its voxels' values, how many voxels it has, and which edges cut it."""

    values: NDArray[np.float32]
    voxels: int
    cut_by: tuple[str, ...]


def measure(
    volume: SeriesVolume,
    label_map: LabelMap,
    card: ModelCard,
    against_densitometry: Sequence[str] = (),
    threads: int = 1,
) -> tuple[Finding, ...]:
    """Return the findings of a label map.

    Parameters
    ----------
    volume
        The source, in Hounsfield units.
    card
        Which findings, and what to measure of them.
    against_densitometry
        Why LAA-950 and the 15th percentile are left out; empty where they are measured.
    threads
        How many segments are gathered at a time.
    """
    places = _places(label_map)
    nowhere = _Place(label_map.values, ())
    values = [segment.value for segment in label_map.segments]
    with ThreadPoolExecutor(max(1, threads)) as pool:  # comparing and gathering need no interpreter
        regions = dict(
            zip(values, pool.map(lambda value: _region(volume, places.get(value, nowhere), value), values), strict=True)
        )
    labels = {segment.value: segment.label for segment in label_map.segments}
    return tuple(
        _finding(plan, [regions[value] for value in plan.segment_values], labels, volume, card, against_densitometry)
        for plan in card.findings
    )


def _finding(
    plan: PlannedFinding,
    regions: list[_Region],
    labels: dict[int, str],
    volume: SeriesVolume,
    card: ModelCard,
    against_densitometry: Sequence[str],
) -> Finding:
    detected = any(region.voxels for region in regions)
    incomplete = _incomplete(plan, regions, labels) if detected else ""
    measurements: list[Measurement] = []
    omissions: list[Omission] = []
    values = np.concatenate([region.values for region in regions])
    for measure_name in card.measures if detected else ():
        reason = _reason_to_omit(measure_name, incomplete, against_densitometry, values)
        if reason:
            omissions.append(Omission(_NAMES[measure_name], reason))
        else:
            voxels = sum(region.voxels for region in regions)
            measurements.append(_measurement(measure_name, values, voxels * volume.voxel_millilitres))
    return Finding(
        key=plan.key,
        label=plan.label,
        finding=plan.finding,
        site=plan.site,
        segment_values=plan.segment_values,
        measurements=tuple(measurements),
        omissions=tuple(omissions),
        detected=detected,
        incomplete=incomplete,
        laterality=plan.laterality,
    )


def _reason_to_omit(
    measure_name: str, incomplete: str, against_densitometry: Sequence[str], values: NDArray[np.float32]
) -> str:
    if measure_name == "volume":
        return incomplete
    if measure_name in _LIMITED and against_densitometry:
        return "; ".join(against_densitometry)
    return "" if len(values) else "the region holds only padding"


def _measurement(measure_name: str, values: NDArray[np.float32], millilitres: float) -> Measurement:
    name = _NAMES[measure_name]
    if measure_name == "volume":
        return Measurement(name, millilitres, MILLILITRE)
    if measure_name == "mean_attenuation":
        return Measurement(name, float(values.mean(dtype=np.float64)), HOUNSFIELD_UNIT, MEAN)
    if measure_name == "laa_950":
        return Measurement(name, 100.0 * float((values < LAA_THRESHOLD_HU).mean()), PERCENT)
    return Measurement(name, _low_percentile(values), HOUNSFIELD_UNIT)


def _low_percentile(values: NDArray[np.float32]) -> float:
    """Return the value that 15 % of the voxels do not exceed."""
    rank = max(int(np.ceil(len(values) * LOW_PERCENTILE / 100.0)) - 1, 0)
    return float(np.partition(values, rank)[rank])


def _incomplete(plan: PlannedFinding, regions: list[_Region], labels: dict[int, str]) -> str:
    """Return in words which parts of the finding are not whole in the images."""
    parts = []
    for value, region in zip(plan.segment_values, regions, strict=True):
        part = labels[value].lower()
        if not region.voxels:
            parts.append(f"{part} was not found")
        elif region.cut_by:
            subject = "it" if len(regions) == 1 else part
            parts.append(f"{subject} reaches {' and '.join(region.cut_by)}")
    return f"incomplete: {'; '.join(parts)}" if parts else ""


@dataclass(frozen=True, eq=False)
class _Place:
    """Which layer of a label map holds a value, and on which slices."""

    layer: Labels
    planes: tuple[int, ...]


def _places(label_map: LabelMap) -> dict[int, _Place]:
    """Return where each value is, found in one pass, so that many segments cost little more than one."""
    found: dict[int, _Place] = {}
    declared = [segment.value for segment in label_map.segments]
    for layer in label_map.layers:
        planes: dict[int, list[int]] = {}
        for index, plane in enumerate(layer):
            for value in _values_in(plane, declared):
                planes.setdefault(int(value), []).append(index)
        found |= {value: _Place(layer, tuple(indices)) for value, indices in planes.items() if value}
    return found


def _values_in(plane: NDArray[np.generic], declared: Sequence[int]) -> Iterable[int]:
    """Return which values a slice of a label map has, of the declared ones at least."""
    if len(declared) > _FEW:
        return np.flatnonzero(np.bincount(plane.ravel())).tolist()
    return [value for value in declared if (plane == value).any()]  # to count is dearer than to look for a few


def _region(volume: SeriesVolume, place: _Place, value: int) -> _Region:
    """Return one segment's voxels, gathered slice by slice, so that no mask of the whole volume is made."""
    layer, planes = place.layer, place.planes
    gathered: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)]
    shadow = np.zeros(layer.shape[1:], dtype=np.bool_)
    voxels, beside_padding = 0, False
    for index in planes:
        mask = layer[index] == value
        voxels += int(np.count_nonzero(mask))
        shadow |= mask
        if volume.padding is None:
            gathered.append(volume.voxels[index][mask])
            continue
        padding = volume.padding[index]
        gathered.append(volume.voxels[index][mask & ~padding])
        beside_padding = beside_padding or _beside(mask, padding)
    cut_by = _edges(planes, shadow, layer.shape, volume, beside_padding)
    return _Region(np.concatenate(gathered), voxels, tuple(cut_by))


def _edges(
    planes: Sequence[int],
    shadow: NDArray[np.bool_],
    shape: tuple[int, ...],
    volume: SeriesVolume,
    beside_padding: bool,
) -> Iterable[str]:
    if not planes:
        return
    if planes[0] == 0:
        yield "the first slice"
    if planes[-1] == shape[0] - 1:
        yield "the last slice"
    at_matrix_edge = bool(shadow[0].any() or shadow[-1].any() or shadow[:, 0].any() or shadow[:, -1].any())
    if at_matrix_edge or beside_padding or _at_circle(shadow, volume.voxels):
        yield "the edge of the field of view"


def _beside(mask: NDArray[np.bool_], padding: NDArray[np.bool_]) -> bool:
    """Tell whether a mask overlaps padding or shares an edge with a large area of it."""
    if np.count_nonzero(padding) <= _FRACTION_OF_PADDING * padding.size:
        return False  # single pixels that happen to hold the padding value are no edge
    return bool(
        (mask & padding).any()
        or (mask[1:] & padding[:-1]).any()
        or (mask[:-1] & padding[1:]).any()
        or (mask[:, 1:] & padding[:, :-1]).any()
        or (mask[:, :-1] & padding[:, 1:]).any()
    )


def _at_circle(shadow: NDArray[np.bool_], voxels: NDArray[np.float32]) -> bool:
    """Tell whether a region reaches the edge of the reconstruction circle.

    Outside of the circle scanners that declare no padding write one value into every slice, which the corners show. It
    is about a fifth of the image; a value that fills most of it is a phantom's background.
    """
    rim = shadow.copy()
    rim[1:] |= shadow[:-1]
    rim[:-1] |= shadow[1:]
    rim[:, 1:] |= shadow[:, :-1]
    rim[:, :-1] |= shadow[:, 1:]
    blank = np.ones(shadow.shape, dtype=np.bool_)
    corner = voxels[0, 0, 0]
    for plane in voxels:
        blank &= plane == corner
        if not (blank & rim).any():
            return False
    return bool(blank.mean() < _MOST_OF_THE_IMAGE)
