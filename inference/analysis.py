"""One series in, everything that a model says about it out: the composition of this wing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import torch
from pydicom.dataset import Dataset

from inference.bundle import LoadedBundle, choose_device, load_bundle
from inference.catalog import ModelCard
from inference.decoding import read_series
from inference.densitometry import reasons_against_densitometry
from inference.measuring import measure
from inference.running import run_bundle
from study.errors import TargetNotInFieldOfView
from study.geometry import VolumeGeometry
from study.headers import InstanceHeader
from study.imaging import LabelMap, ResultSet, SeriesVolume

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
    versions
        Of the libraries that took part.
    """

    result_set: ResultSet
    volume: SeriesVolume
    datasets: tuple[Dataset, ...]
    timings: dict[str, float]
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
            If it can not be loaded.
        """
        key = (card.path, card.digest)
        if key not in self._loaded:
            self._loaded[key] = load_bundle(card.path, self.device)
        return self._loaded[key]

    def analyse(
        self,
        card: ModelCard,
        paths: Sequence[Path],
        headers: Sequence[InstanceHeader],
        geometry: VolumeGeometry,
    ) -> Analysis:
        """Return what the model says about a series.

        Parameters
        ----------
        paths, headers
            Of each slice, in slice order.
        geometry
            The grid that the slices form; its `order` is not applied again.

        Raises
        ------
        StudyRefused
            If the pixel data can not be decoded, or the organ is not in the images (TargetNotInFieldOfView).
        InferenceError
            If the model can not be run, or gives what can not be used.
        """
        bundle = self.load(card)
        started = time.perf_counter()
        decoded = read_series(paths, headers, geometry.affine, self.threads)
        decoded_at = time.perf_counter()
        outcome = run_bundle(bundle, decoded.volume, card.segments)
        _demand_target(card, outcome.label_map)
        ran_at = time.perf_counter()
        against_densitometry = reasons_against_densitometry(decoded.datasets)
        findings = measure(decoded.volume, outcome.label_map, card, against_densitometry)
        timings = {"decode": decoded_at - started, **outcome.timings, "measure": time.perf_counter() - ran_at}
        return Analysis(
            result_set=ResultSet(outcome.label_map, findings, limits=tuple(geometry.notes)),
            volume=decoded.volume,
            datasets=decoded.datasets,
            timings=timings,
            versions={name: version(name) for name in _VERSIONED},
        )


def _demand_target(card: ModelCard, label_map: LabelMap) -> None:
    if card.target and not np.any(label_map.values):
        raise TargetNotInFieldOfView(f"The {card.target} are not in the field of view of the series.")
