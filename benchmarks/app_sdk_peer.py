"""The peer of the turnaround that others maintain: an application of the MONAI Deploy App SDK, with a threshold.

    PYTHON_OF_THE_SDK app_sdk_peer.py FOLDER OUTPUT RUNS

It loads the DICOM files of FOLDER, selects their series, makes a volume, thresholds it and writes one BINARY
Segmentation, all but the threshold by the SDK's own operators. It writes no report and sends nothing. It does so RUNS
times in one process and prints as JSON how long the imports and each run took; the later ones are warm. It imports
nothing of this project: it runs in the SDK's own environment (`app_sdk`).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

_started = time.perf_counter()

import numpy as np  # noqa: E402 - the imports are part of what is timed
from monai.deploy.conditions import CountCondition  # noqa: E402
from monai.deploy.core import Application, Operator, OperatorSpec  # noqa: E402
from monai.deploy.operators import (  # noqa: E402
    DICOMDataLoaderOperator,
    DICOMSegmentationWriterOperator,
    DICOMSeriesSelectorOperator,
    DICOMSeriesToVolumeOperator,
)
from monai.deploy.operators.dicom_seg_writer_operator import SegmentDescription  # noqa: E402
from pydicom.sr.codedict import codes  # noqa: E402

_imported = time.perf_counter()


class ThresholdOperator(Operator):  # type: ignore[misc]  # the SDK is in another environment, without types
    """Lung by its density, in place of a network."""

    def setup(self, spec: OperatorSpec) -> None:
        """Name what comes in and goes out."""
        spec.input("image")
        spec.output("seg_image")

    def compute(self, op_input: Any, op_output: Any, context: object) -> None:  # noqa: ANN401 - the SDK has no types
        """Threshold the volume."""
        del context
        volume = op_input.receive("image").asnumpy()
        op_output.emit(((volume < -350) & (volume > -990)).astype(np.uint8), "seg_image")


class ThresholdApplication(Application):  # type: ignore[misc]  # as above
    """From a folder of files to a Segmentation in another."""

    def __init__(self, source: Path, output: Path) -> None:
        self._source, self._output = source, output
        super().__init__()

    def compose(self) -> None:
        """Put the operators into a row."""
        load = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=self._source, name="load")
        select = DICOMSeriesSelectorOperator(self, rules="", name="select")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        threshold = ThresholdOperator(self, name="threshold")
        segment = SegmentDescription(
            segment_label="Lung",
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Lung,
            algorithm_name="threshold",
            algorithm_version="1",
        )
        write = DICOMSegmentationWriterOperator(
            self, segment_descriptions=[segment], output_folder=self._output, name="write"
        )
        self.add_flow(load, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, threshold, {("image", "image")})
        self.add_flow(threshold, write, {("seg_image", "seg_image")})
        self.add_flow(select, write, {("study_selected_series_list", "study_selected_series_list")})


def main(source: Path, output: Path, runs: int) -> None:
    """Run the application several times, and print how long each run took."""
    logging.disable(logging.INFO)
    seconds = []
    for number in range(runs):
        begun = time.perf_counter()
        ThresholdApplication(source, output / str(number)).run()
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({"imports": _imported - _started, "runs": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
