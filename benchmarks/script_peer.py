"""The peer of the turnaround: what a hand-written script does with pydicom and highdicom, and nothing around it.

    python -m benchmarks.script_peer FOLDER OUTPUT

It reads a folder of CT images, makes a volume, thresholds it, and writes one BINARY Segmentation. It checks nothing,
measures nothing, writes no report and sends nothing. It prints the seconds of each step as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

_started = time.perf_counter()

import highdicom as hd  # noqa: E402 - the imports are part of what is timed
import numpy as np  # noqa: E402
import pydicom  # noqa: E402
from pydicom.sr.codedict import codes  # noqa: E402
from pydicom.uid import generate_uid  # noqa: E402

_imported = time.perf_counter()


def main(folder: Path, output: Path) -> None:
    """Read, threshold, write, and print how long each took."""
    datasets = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    datasets.sort(key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    volume = np.stack(
        [
            dataset.pixel_array * np.float32(dataset.RescaleSlope) + np.float32(dataset.RescaleIntercept)
            for dataset in datasets
        ]
    )
    read = time.perf_counter()
    mask = ((volume < -350) & (volume > -990)).astype(np.uint8)
    thresholded = time.perf_counter()
    for dataset in datasets:
        # Public chest CTs carry another Frame of Reference in each slice, which highdicom refuses.
        dataset.FrameOfReferenceUID = datasets[0].FrameOfReferenceUID
    description = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Lung",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Lung,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="threshold", version="1", family=codes.DCM.ArtificialIntelligence
        ),
    )
    segmentation = hd.seg.Segmentation(
        source_images=datasets,
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[description],
        series_instance_uid=generate_uid(),
        series_number=100,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Script",
        manufacturer_model_name="Script",
        software_versions="1",
        device_serial_number="1",
    )
    segmentation.save_as(output)
    written = time.perf_counter()
    seconds = {
        "imports": _imported - _started,
        "read": read - _imported,
        "threshold": thresholded - read,
        "seg": written - thresholded,
    }
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
