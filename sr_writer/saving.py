"""Put one object of a result into its folder, and say what is there."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset

from sr_writer.files import save
from study.entities import ResultObject
from study.forms import Variant


def saved(variant: Variant, number: int, dataset: Dataset, folder: Path) -> ResultObject:
    """Write an object into `folder`, durable once this returns, and return what it is.

    Parameters
    ----------
    number
        Which object of its form it is, 1 and up; it stands in the name of its file.
    """
    path = folder / (f"{variant.form}.dcm" if number == 1 else f"{variant.form}-{number}.dcm")
    digest, size = save(dataset, path)
    return ResultObject(
        form=variant.form.value,
        variant=variant.key,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        path=path.name,
        digest=digest,
        size=size,
    )
