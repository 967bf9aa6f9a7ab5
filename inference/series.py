"""One series through a loaded bundle: read, run, measured, and the results back on its own slices."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from inference.account import Account
from inference.bundle import LoadedBundle
from inference.catalog import ModelCard
from inference.decoding import DecodedSeries, read_image, read_series
from inference.densitometry import reasons_against_densitometry
from inference.evening import evened, nearest_given, on_slices
from inference.measuring import measure
from inference.pixels import Pixels, pixels_of_images, pixels_of_slices
from inference.running import run_bundle
from inference.scoring import score_image, score_volume
from study.errors import TargetNotInFieldOfView, UndecodablePixelData
from study.geometry import VolumeGeometry
from study.headers import InstanceHeader
from study.imaging import Assessment, Finding, LabelMap, ResultSet, SeriesVolume

_WORD: Final = 8  # bytes
_SEED: Final = 1


@dataclass(frozen=True, eq=False)
class Said:
    """What a model said of a series, and the headers of its images in slice order.

    Parameters
    ----------
    earlier
        The headers of each earlier series that the result names.
    """

    result_set: ResultSet
    datasets: tuple[Dataset, ...]
    earlier: tuple[tuple[Dataset, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class Series:
    """The images of one series, in order.

    Parameters
    ----------
    geometry
        The grid that they form, its `order` not applied again; None for images that stand alone.
    threads
        For decoding.
    most_bytes
        How much memory the images may take; None: whatever there is.
    """

    paths: tuple[Path, ...]
    headers: tuple[InstanceHeader, ...]
    geometry: VolumeGeometry | None
    threads: int
    most_bytes: int | None = None

    @property
    def voxels(self) -> int:
        """Return how many go through the model together: the whole volume's, or the largest image's."""
        sizes = [(header.rows or 0) * (header.columns or 0) for header in self.headers]
        return max(sizes) if self.geometry is None else sum(sizes)

    def said_by(
        self,
        bundle: LoadedBundle,
        card: ModelCard,
        account: Account,
        beside: Mapping[str, SeriesVolume] = MappingProxyType({}),
    ) -> Said:
        """Return what a bundle says of the series; the errors are those of `inference.analysis.Analyst.analyse`.

        Parameters
        ----------
        beside
            Earlier series that the bundle is given too, by the keys of its transforms.
        """
        if self.geometry is None:
            return self._images_said_by(bundle, card, account)
        return self._volume_said_by(bundle, card, account, self.geometry, beside)

    def volume(self) -> tuple[SeriesVolume, tuple[Dataset, ...]]:
        """Return the volume as a model gets it, and the headers of its slices.

        Raises
        ------
        StudyRefused, InferenceError
            If the images can not be decoded or read, or stand alone.
        """
        if self.geometry is None:
            raise UndecodablePixelData("The images stand alone, and form no volume.")
        decoded = self._decoded(self.geometry)
        return _even(decoded.volume, self.geometry), decoded.datasets

    def pixels(self) -> Pixels:
        """Return the pixels of each slice or image by its index, for pictures."""
        if self.geometry is None:
            return pixels_of_images(self.paths, self.headers)
        return pixels_of_slices(self.paths, self.headers, self.threads)

    def _volume_said_by(
        self,
        bundle: LoadedBundle,
        card: ModelCard,
        account: Account,
        geometry: VolumeGeometry,
        beside: Mapping[str, SeriesVolume],
    ) -> Said:
        with account.step("decode"):
            decoded = self._decoded(geometry)
            volume = _even(decoded.volume, geometry)
        if card.kind != "segmentation":
            assessments = score_volume(bundle, volume, card, account, beside)
            return Said(ResultSet(None, (), assessments=assessments), decoded.datasets)
        seen = _checksums(volume, self.threads)
        label_map = run_bundle(bundle, volume, card.segments, card.background_first, account, beside)
        _demand_target(card, label_map)
        with account.step("measure"):
            if _checksums(volume, self.threads) != seen:  # the bundle works in place; what is measured are the images
                volume = _even(self._decoded(geometry).volume, geometry)
            reasons = reasons_against_densitometry(decoded.datasets)
            findings = measure(volume, label_map, card, reasons, self.threads)
        return Said(ResultSet(_on_source(label_map, geometry), findings), decoded.datasets)

    def _decoded(self, geometry: VolumeGeometry) -> DecodedSeries:
        return read_series(self.paths, self.headers, geometry.affine, self.threads, self.most_bytes)

    def _images_said_by(self, bundle: LoadedBundle, card: ModelCard, account: Account) -> Said:
        assessments: list[Assessment] = []
        datasets: list[Dataset] = []
        inverted = 0
        for index, (path, header) in enumerate(zip(self.paths, self.headers, strict=True)):
            with account.step("decode", quietly=index > 0):
                image = read_image(path, header, most_bytes=self.most_bytes)
            assessments += score_image(bundle, image.pixels, _spacing(header), card, index, account)
            datasets.append(image.dataset)
            inverted += image.inverted
        limits = [f"{inverted} of {len(self.paths)} images are stored as negatives (MONOCHROME1) and were inverted."]
        result = ResultSet(None, (), tuple(limits if inverted else ()), assessments=tuple(assessments))
        return Said(result, tuple(datasets))


def figures(result_set: ResultSet) -> list[dict[str, Any]]:
    """Return the numbers of a result for statistics: what of, which, how much, in what unit; no text of a patient's."""
    return [*_figures(result_set.findings), *_figures(result_set.assessments)]


def _figures(said: tuple[Finding | Assessment, ...]) -> Iterator[dict[str, Any]]:
    for each in said:
        if isinstance(each, Assessment) and each.probability is not None:
            yield {"finding": each.key, "name": "Probability", "value": each.probability, "unit": "1"}
        for measurement in each.measurements:
            yield {
                "finding": each.key,
                "name": measurement.name.meaning,
                "value": measurement.value,
                "unit": measurement.unit.value,
            }


def _checksums(volume: SeriesVolume, threads: int) -> tuple[int, ...]:
    """Return a number of each slice that is another one once somebody has written into any voxel, or moved some.

    It is the sum of a slice's words of 64 bits, each times an odd number of its own, modulo 2 ** 64: three times as
    fast as a CRC. Where one word differs, so does the sum; where several do, all but for chance.
    """
    size = volume.voxels[0].nbytes
    if size % _WORD:
        weights = None
    else:
        weights = np.random.default_rng(_SEED).integers(0, 2**64, size // _WORD, dtype=np.uint64) | np.uint64(1)

    def checksum(plane: NDArray[np.float32]) -> int:
        content = np.ascontiguousarray(plane)
        return (
            zlib.crc32(content.data) if weights is None else int(np.dot(content.reshape(-1).view(np.uint64), weights))
        )

    with ThreadPoolExecutor(max(1, threads)) as pool:  # it needs no interpreter
        return tuple(pool.map(checksum, volume.voxels))


def _even(volume: SeriesVolume, geometry: VolumeGeometry) -> SeriesVolume:
    """Return the volume that the model gets: as it is, or interpolated where its slices are unevenly spaced."""
    if not geometry.offsets:
        return volume
    voxels = evened(volume.voxels, geometry.offsets, geometry.slices)
    nearest = nearest_given(geometry.offsets, geometry.slices)
    padding = None if volume.padding is None else volume.padding[nearest]
    return SeriesVolume(voxels, geometry.affine, tuple(volume.sop_instance_uids[index] for index in nearest), padding)


def _on_source(label_map: LabelMap, geometry: VolumeGeometry) -> LabelMap:
    """Return the label map on the slices of the series."""
    if not geometry.offsets:
        return label_map
    first, *further = (on_slices(layer, geometry.offsets) for layer in label_map.layers)
    return LabelMap(first, label_map.affine, label_map.segments, tuple(further), geometry.offsets)


def _spacing(header: InstanceHeader) -> tuple[float, float]:
    """Return the pixel spacing of an image along (row, column) [mm]; 1 where none is stated, as from a picture file."""
    given = header.pixel_spacing
    return (given[0], given[1]) if given is not None and len(given) == 2 and min(given) > 0 else (1.0, 1.0)


def _demand_target(card: ModelCard, label_map: LabelMap) -> None:
    if card.target and not any(np.any(layer) for layer in label_map.layers):
        raise TargetNotInFieldOfView(f"The {card.target} are not in the field of view of the series.")
