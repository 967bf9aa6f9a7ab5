"""Who made a result: equipment, times and place among the series, the same in every object."""

from __future__ import annotations

from datetime import datetime

from highdicom import AlgorithmIdentificationSequence
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer.codes import PROCESSING_EQUIPMENT, code_item, concept
from sr_writer.context import ResultContext
from sr_writer.texts import LONGEST, ascii_text, long_string
from study.imaging import ModelIdentity

DIGEST = "bundle_sha256"
"""What the digest of a model's bundle is called among its algorithm's parameters."""


def set_equipment(result: Dataset, model: ModelIdentity) -> None:
    """Make `result` say which device made it (General Equipment, Enhanced General Equipment, PS3.3 C.7.5)."""
    result.Manufacturer = long_string(model.manufacturer)
    _describe(result, model)


def add_contributing_equipment(result: Dataset, model: ModelIdentity) -> None:
    """Add the one item that names the algorithm (PS3.3 C.12.1.1.5), known from the others by its Device UID."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = ItemSequence([code_item(PROCESSING_EQUIPMENT)])
    item.Manufacturer = long_string(model.manufacturer)
    _describe(item, model)
    item.ContributionDescription = ascii_text(f"{model.name} {model.version}, {digest_parameter(model)}")
    others = [other for other in result.get("ContributingEquipmentSequence", ()) if "DeviceUID" not in other]
    result.ContributingEquipmentSequence = ItemSequence([*others, item])


def _describe(dataset: Dataset, model: ModelIdentity) -> None:
    dataset.ManufacturerModelName = long_string(model.name)
    dataset.DeviceSerialNumber = long_string(model.serial)
    dataset.SoftwareVersions = software_versions(model)
    dataset.DeviceUID = model.device_uid
    if model.station_name:
        dataset.StationName = long_string(model.station_name, 16)


def digest_parameter(model: ModelIdentity) -> str:
    """Return which bundle it was that made a result, as an algorithm's parameter: name=value."""
    return f"{DIGEST}={model.digest}"


def algorithm_identification(model: ModelIdentity, context: ResultContext) -> AlgorithmIdentificationSequence:
    """Return which algorithm made a region (Algorithm Identification Macro, PS3.3 10.16)."""
    return AlgorithmIdentificationSequence(
        name=long_string(model.name),
        family=concept(context.algorithm_family),
        version=long_string(model.version),
        source=long_string(model.manufacturer),
        parameters={DIGEST: model.digest},
    )


def name_and_version(model: ModelIdentity) -> str:
    """Return what made a result in a name of VR LO, cut where it is too long."""
    return long_string(f"{model.name} {model.version}"[:LONGEST])


def software_versions(model: ModelIdentity) -> list[str]:
    """Return the Software Versions of a result: the model's, then the node's."""
    return [long_string(model.version), long_string(model.software_version)]


def set_times(result: Dataset, context: ResultContext, source: Dataset) -> None:
    """Set every date and time of `result` that is its own, also the library's, to when its job was made."""
    made = context.local_time(source)
    for prefix in ("InstanceCreation", "Series", "Content"):
        setattr(result, f"{prefix}Date", made.strftime("%Y%m%d"))
        setattr(result, f"{prefix}Time", _time(made))
    for item in result.get("ContributingEquipmentSequence", ()):
        item.ContributionDateTime = f"{made:%Y%m%d}{_time(made)}"


def _time(moment: datetime) -> str:
    return moment.strftime("%H%M%S.%f") if moment.microsecond else moment.strftime("%H%M%S")
