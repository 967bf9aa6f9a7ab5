"""A bundle's ``metadata.json`` as the Model Zoo writes it, asked for what the node needs of it.

Zoo bundles differ in what they fill in, so each question has one place here, and an answer or words for a person.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from inference.description import Kind
from inference.structures import is_background
from study.errors import BundleInvalid

METADATA: Final = "configs/metadata.json"
CONFIGS: Final = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
"""Where a bundle says how it is run; the first that is there counts."""

_MODALITIES: Final = {
    "ct": ("CT",),
    "computed tomography": ("CT",),
    "mr": ("MR",),
    "mri": ("MR",),
    "magnetic resonance": ("MR",),
    "pet": ("PT",),
    "pt": ("PT",),
    "mg": ("MG",),
    "mammogram": ("MG",),
    "mammography": ("MG",),
    "x-ray": ("CR", "DX"),
    "xray": ("CR", "DX"),
    "cxr": ("CR", "DX"),
    "radiograph": ("CR", "DX"),
    "cr": ("CR", "DX"),
    "dx": ("CR", "DX"),
}
"""What bundles call a modality, and its Defined Terms (PS3.3 C.7.3.1.1.1)."""

_OTHER_TASKS: Final = ("detection", "generat", "synthesis", "registration", "reconstruction", "interactive", "tracking")
_OTHER_OUTPUTS: Final = ("object", "box", "point", "tuple", "dict", "coco")
_KINDS: Final = "kinds are segmentation, classification, measurement"
_IN_COLOUR: Final = 3


@dataclass(frozen=True)
class Metadata:
    """What a bundle says of itself.

    Parameters
    ----------
    name
        "" where it can not be written into a result.
    inputs, outputs
        ``network_data_format``, by the names that the metadata use.
    hilum
        What is said for this node alone.
    """

    name: str
    task: str
    version: str
    license: str
    data_type: str
    inputs: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    hilum: Mapping[str, Any]

    @classmethod
    def of(cls, content: Mapping[str, Any], file: Path) -> Metadata:
        """Return the metadata of a JSON object.

        Raises
        ------
        BundleInvalid
            If the version is missing, or a part has another form than the bundle specification gives it.
        """
        version = str(content.get("version") or "")
        if not _is_printable(version):
            raise BundleInvalid(f'{file} has no "version" of printable ASCII, at most 64 characters; results name it.')
        name = str(content.get("name") or "")
        formats = content.get("network_data_format") or {}
        if not isinstance(formats, Mapping):
            raise BundleInvalid(f'{file}: "network_data_format" is no object.')
        hilum = content.get("hilum") or {}
        if not isinstance(hilum, Mapping):
            raise BundleInvalid(f'{file}: the "hilum" object can not be used: it is no object.')
        return cls(
            name=name if _is_printable(name) else "",
            task=str(content.get("task") or ""),
            version=version.strip(),
            license=str(content.get("license") or content.get("copyright") or ""),
            data_type=str(content.get("data_type") or ""),
            inputs=_formats(formats.get("inputs"), file),
            outputs=_formats(formats.get("outputs"), file),
            hilum=hilum,
        )

    @property
    def input(self) -> Mapping[str, Any]:
        """Return the format of the first input; empty where none is declared."""
        return next(iter(self.inputs.values()), {})

    @property
    def output(self) -> Mapping[str, Any]:
        """Return the format of the first output; empty where none is declared."""
        return next(iter(self.outputs.values()), {})

    @property
    def is_planar(self) -> bool:
        """Tell whether the network takes two-dimensional images."""
        shape = self.input.get("spatial_shape")
        return isinstance(shape, list) and len(shape) == 2

    @property
    def input_channels(self) -> int:
        """Return how many channels the network takes; 1 where the metadata do not say it in a number."""
        given = self.input.get("num_channels")
        return int(given) if isinstance(given, int) or (isinstance(given, str) and given.isdecimal()) else 1

    def modality(self) -> tuple[str, ...]:
        """Return the DICOM modalities that the input is of; empty where the metadata do not say one that is known."""
        return _MODALITIES.get(str(self.input.get("modality", "")).strip().lower(), ())

    def kind(self) -> Kind:
        """Return what the model gives.

        Raises
        ------
        ValueError
            If that is not clear, or nothing that the node can run.
        """
        said = " ".join(str(self.output.get(key, "")) for key in ("type", "format")).lower()
        task = self.task.lower()
        if any(word in said for word in _OTHER_OUTPUTS):
            raise ValueError(f'the output ("{said.strip()}") is none that can be taken; {_KINDS}')
        if "segmentation" in said:
            return "segmentation"
        if any(word in task for word in _OTHER_TASKS):
            raise ValueError(f'the task "{self.task}" is none that can be run; {_KINDS}')
        if "segmentation" in task:
            return "segmentation"
        if any(word in said for word in ("probabilit", "class", "labels")) or "classif" in task:
            return "classification"
        if not self.output or said.strip() in ("", "image"):
            return "segmentation"
        raise ValueError(
            f'what the model gives ("{said.strip()}") is not clear; say kind = "segmentation" in its entry'
        )

    def channels(self) -> dict[int, str]:
        """Return the names of the output's channels or labels, by their number (``channel_def``)."""
        named = self.output.get("channel_def") or self.output.get("label_def")
        if not isinstance(named, Mapping):
            return {}
        return {int(key): str(value) for key, value in named.items() if str(key).strip().isdigit()}

    @property
    def background_first(self) -> bool:
        """Tell whether the names of channels or labels begin with a background."""
        return is_background(self.channels().get(0, "background"))

    def labels(self) -> dict[int, str]:
        """Return what each label value stands for, without background.

        ``channel_def`` counts channels from 0. Where it begins with a background, the numbers are the label values;
        where it does not, a voxel of the first channel has the value 1, and so on.
        """
        named = self.channels()
        if not named:
            return {}
        shift = 0 if self.background_first else 1
        return {number + shift: name for number, name in sorted(named.items()) if not is_background(name)}

    def demand_background_at_zero(self) -> None:
        """Return unless a background has another number than 0, which every label map takes it for; else ValueError."""
        elsewhere = [number for number, name in self.channels().items() if number and is_background(name)]
        if elsewhere and not self.background_first:
            raise ValueError(
                f"the output's background is number {elsewhere[0]} (channel_def), and a label map's is 0: such labels "
                "can not be told apart safely"
            )

    def demand_one_image_in_and_one_result_out(self, priors: Collection[str] = ()) -> None:
        """Return if the model takes one image and gives one result; ValueError with the names if not.

        Parameters
        ----------
        priors
            The names of inputs that are earlier series.
        """
        images = [name for name in self.inputs if name not in priors]
        for what, formats in (("inputs", images), ("outputs", list(self.outputs))):
            if len(formats) > 1:
                raise ValueError(
                    f"the model has {len(formats)} {what} ({', '.join(formats)}), and one can be given and taken"
                )

    def demand_channels(self, form: str, priors: int = 0) -> None:
        """Return if one grey-scale series or image can feed the model; ValueError with the number if not.

        A single image may serve as the three equal channels of a network that was trained on pictures. The bundle's own
        transforms may put earlier series beside the series.

        Parameters
        ----------
        priors
            How many earlier series the bundle is given besides.
        """
        channels = self.input_channels
        if channels in (1, 1 + priors) or (form == "image" and channels == _IN_COLOUR):
            return
        raise ValueError(
            f"the model takes {channels} channels, which would be {channels} series on one grid; one series is given"
        )


def _is_printable(text: str) -> bool:
    return 0 < len(text.strip()) <= 64 and all(" " <= character <= "}" and character != "\\" for character in text)


def _formats(given: object, file: Path) -> dict[str, Mapping[str, Any]]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(value, Mapping) for value in given.values()):
        raise BundleInvalid(f'{file}: "network_data_format" does not list inputs and outputs by name.')
    return {str(name): value for name, value in given.items()}
