"""A bundle that others made (TorchScript, two-dimensional, slice by slice) gives what MONAI's own run of it gives."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.bundle.config_parser import ConfigParser
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import decollate_batch
from monai.transforms.io.array import LoadImage
from numpy.typing import NDArray

from inference.bundle import load_bundle
from inference.decoding import read_series
from inference.orientation import to_monai
from inference.running import run_bundle
from study.codes import ANATOMICAL_STRUCTURE, Code
from study.geometry import FrameOfReferencePolicy, assess
from study.headers import InstanceHeader
from study.imaging import Segment, SeriesVolume
from tests.support.peers import shared

# What torch and MONAI have to say of the bundle of others: weights as TorchScript, and a default that it relies on.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:monai.transforms.spatial.dictionary Orientationd:FutureWarning"),
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),  # MONAI's loader tries every reader
]

SLICES = slice(150, 162)
LUNG = Segment(1, "Lung", ANATOMICAL_STRUCTURE, Code("39607008", "SCT", "Lung"))


@pytest.fixture(scope="module")
def volume() -> SeriesVolume:
    paths = sorted(shared("data", "ct_chest_lidc_0314").glob("*.dcm"))
    found = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    headers = [InstanceHeader.of(dataset, dataset.file_meta.TransferSyntaxUID) for dataset in found]
    order = assess(headers, FrameOfReferencePolicy.BY_POSITION).order[SLICES]
    headers = [headers[index] for index in order]
    geometry = assess(headers, FrameOfReferencePolicy.BY_POSITION)
    return read_series([paths[index] for index in order], headers, geometry.affine).volume


def run_by_monai(bundle: Path, volume: SeriesVolume, folder: Path) -> NDArray[np.uint8]:
    """Return what MONAI makes of the bundle when it loads the image from a file, by the configuration as it stands."""
    array, affine = to_monai(volume.voxels, volume.affine)
    (folder / "data").mkdir()
    image = nibabel.nifti1.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]  # nibabel declares no types here
    image.to_filename(folder / "data" / "chest.nii")
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    parser["device"] = "$torch.device('cpu')"
    parser["dataset_dir"] = str(folder / "data")
    parser["postprocessing"]["transforms"][-1]["output_dir"] = str(folder / "out")
    network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("inferer")
    postprocessing = parser.get_parsed_content("postprocessing")
    with torch.inference_mode():
        for batch in parser.get_parsed_content("dataloader"):
            batch["pred"] = inferer(batch["image"], network)
            for sample in decollate_batch(batch):
                prediction: MetaTensor = postprocessing(sample)["pred"]
    written = next((folder / "out").rglob("*.nii*"))
    np.testing.assert_array_equal(LoadImage(image_only=True)(written).numpy().squeeze(), prediction.numpy()[0])
    labels: NDArray[np.uint8] = prediction.numpy()[0].transpose(2, 1, 0).astype(np.uint8)
    return labels


def test_our_run_equals_the_run_by_monai(volume: SeriesVolume, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(shared("bundles", "lung_ct_unet"), tmp_path / "bundle"))
    ours = run_bundle(load_bundle(bundle, torch.device("cpu")), volume, [LUNG]).label_map
    theirs = run_by_monai(bundle, volume, tmp_path)
    assert ours.values.shape == volume.voxels.shape
    assert 0.1 < ours.values.mean() < 0.5
    np.testing.assert_array_equal(ours.values, theirs)
    np.testing.assert_array_equal(ours.affine, volume.affine)


def test_the_side_of_a_finding_does_not_depend_on_the_order_of_the_axes(volume: SeriesVolume) -> None:
    bundle = load_bundle(shared("bundles", "lung_ct_unet"), torch.device("cpu"))
    part = SeriesVolume(volume.voxels[:3], volume.affine, volume.sop_instance_uids[:3])
    mirrored = part.affine.copy()
    mirrored[:3, 3] += mirrored[:3, 2] * (part.voxels.shape[2] - 1)
    mirrored[:3, 2] *= -1
    turned = SeriesVolume(np.ascontiguousarray(part.voxels[:, :, ::-1]), mirrored, part.sop_instance_uids)
    straight = run_bundle(bundle, part, [LUNG]).label_map.values
    np.testing.assert_array_equal(run_bundle(bundle, turned, [LUNG]).label_map.values[:, :, ::-1], straight)
