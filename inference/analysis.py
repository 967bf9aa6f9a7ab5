"""One series in, everything that a model says about it out: the composition of this wing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import torch
from pydicom.dataset import Dataset

from inference.bundle import LoadedBundle, choose_device, load_bundle
from inference.catalog import ModelCard, digest_of
from inference.decoding import read_image, read_series
from inference.densitometry import reasons_against_densitometry
from inference.evening import evened, nearest_given, on_slices
from inference.measuring import measure
from inference.pixels import Pixels, pixels_of_images, pixels_of_slices
from inference.running import run_bundle
from inference.scoring import score_image, score_volume
from study.errors import BundleInvalid, TargetNotInFieldOfView
from study.geometry import VolumeGeometry
from study.headers import InstanceHeader
from study.imaging import Assessment, LabelMap, ResultSet, SeriesVolume

_VERSIONED: Final = ("torch", "monai", "numpy", "scipy", "pydicom", "connected-components-3d")


@dataclass(frozen=True, eq=False)
class Analysis:
    """What became of one series.

    Parameters
    ----------
    datasets
        The source images' headers, in slice order, without pixel data.
    timings
        Of decode, preprocess, inference, postprocess and measure [s].
    pixels
        Of each slice or image by its index, for pictures.
    versions
        Of the libraries that took part.
    """

    result_set: ResultSet
    datasets: tuple[Dataset, ...]
    timings: dict[str, float]
    pixels: Pixels
    versions: dict[str, str] = field(default_factory=dict)


class Analyst:
    """Runs models on series, and keeps those that it loaded.

    Parameters
    ----------
    device
        "auto" (a GPU where there is one), "cpu", "cuda:0".
    threads
        For decoding and for torch on the CPU; 0 leaves torch's own choice.
    """

    def __init__(self, device: str = "auto", threads: int = 0) -> None:
        if threads > 0:
            torch.set_num_threads(threads)
        self.device = choose_device(device)
        self.threads = threads or torch.get_num_threads()
        self._loaded: dict[tuple[Path, str], LoadedBundle] = {}

    def load(self, card: ModelCard) -> LoadedBundle:
        """Return the card's bundle, loaded once for each digest.

        Raises
        ------
        BundleInvalid
            If it can not be loaded, or is not the one that was approved.
        """
        if card.objection is not None:
            raise BundleInvalid(card.objection.words)
        key = (card.path, card.digest)
        if key not in self._loaded:
            _demand_unchanged(card)
            self._loaded[key] = load_bundle(card.path, self.device)
        return self._loaded[key]

    def analyse(
        self,
        card: ModelCard,
        paths: Sequence[Path],
        headers: Sequence[InstanceHeader],
        geometry: VolumeGeometry | None,
        notes: Sequence[str] = (),
    ) -> Analysis:
        """Return what the model says about a series.

        Parameters
        ----------
        paths, headers
            Of each slice or image, in their order.
        geometry
            The grid that the slices form, its `order` not applied again; None for images that stand alone.
        notes
            What a reader of the results must know of the series, in words.

        Raises
        ------
        StudyRefused
            If the pixel data can not be decoded, or the organ is not in the images (TargetNotInFieldOfView).
        InferenceError
            If the model can not be run, or gives what can not be used.
        """
        bundle = self.load(card)
        if geometry is None:
            result, datasets, timings = self._say_of_images(card, bundle, paths, headers)
            pixels = pixels_of_images(paths, headers)
        else:
            result, datasets, timings = self._say_of_volume(card, bundle, paths, headers, geometry)
            pixels = pixels_of_slices(paths, headers, self.threads)
        result = replace(result, limits=(*notes, *bundle.notes, *result.limits))
        return Analysis(result, datasets, timings, pixels, {name: version(name) for name in _VERSIONED})

    def _say_of_volume(
        self,
        card: ModelCard,
        bundle: LoadedBundle,
        paths: Sequence[Path],
        headers: Sequence[InstanceHeader],
        geometry: VolumeGeometry,
    ) -> _Said:
        started = time.perf_counter()
        decoded = read_series(paths, headers, geometry.affine, self.threads)
        volume = _even(decoded.volume, geometry)
        timings = {"decode": time.perf_counter() - started}
        if card.kind != "segmentation":
            scored = score_volume(bundle, volume, card)
            return ResultSet(None, (), assessments=scored.assessments), decoded.datasets, timings | scored.timings
        seen = _sample(volume)
        outcome = run_bundle(bundle, volume, card.segments, card.background_first)
        _demand_target(card, outcome.label_map)
        ran_at = time.perf_counter()
        if _sample(volume) != seen:  # the bundle works in place; what is measured are the images
            volume = _even(read_series(paths, headers, geometry.affine, self.threads).volume, geometry)
        findings = measure(volume, outcome.label_map, card, reasons_against_densitometry(decoded.datasets))
        timings |= outcome.timings | {"measure": time.perf_counter() - ran_at}
        return ResultSet(_on_source(outcome.label_map, geometry), findings), decoded.datasets, timings

    def _say_of_images(
        self,
        card: ModelCard,
        bundle: LoadedBundle,
        paths: Sequence[Path],
        headers: Sequence[InstanceHeader],
    ) -> _Said:
        timings: dict[str, float] = {"decode": 0.0}
        assessments: list[Assessment] = []
        datasets: list[Dataset] = []
        inverted = 0
        for index, (path, header) in enumerate(zip(paths, headers, strict=True)):
            started = time.perf_counter()
            image = read_image(path, header)
            timings["decode"] += time.perf_counter() - started
            scored = score_image(bundle, image.pixels, _spacing(header), card, index)
            timings |= {step: timings.get(step, 0.0) + seconds for step, seconds in scored.timings.items()}
            assessments += scored.assessments
            datasets.append(image.dataset)
            inverted += image.inverted
        limits = [f"{inverted} of {len(paths)} images are stored as negatives (MONOCHROME1) and were inverted."]
        result = ResultSet(None, (), tuple(limits if inverted else ()), assessments=tuple(assessments))
        return result, tuple(datasets), timings


_Said = tuple[ResultSet, tuple[Dataset, ...], dict[str, float]]


def _sample(volume: SeriesVolume) -> float:
    """Return a number that is another one once somebody has written into the voxels."""
    return float(volume.voxels[::4, ::4, ::4].sum(dtype=np.float64))


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


def _demand_unchanged(card: ModelCard) -> None:
    """Demand that the bundle is still the one that the card was read from: it may lie there for days before it runs."""
    found = digest_of(card.path)
    if found != card.digest:
        raise BundleInvalid(
            f"The bundle of {card.name} changed while the node ran: its digest was {card.digest}, it is {found}; "
            "restart the node once it is as it should be."
        )


def _demand_target(card: ModelCard, label_map: LabelMap) -> None:
    if card.target and not any(np.any(layer) for layer in label_map.layers):
        raise TargetNotInFieldOfView(f"The {card.target} are not in the field of view of the series.")
