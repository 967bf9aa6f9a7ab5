"""From what a model found to result objects on disk: written, synced, read back and checked, each exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from sr_writer.checking.seg import check_seg
from sr_writer.checking.sr import check_sr
from sr_writer.context import ResultContext
from sr_writer.files import save
from sr_writer.region.areas import areas_by_slice
from sr_writer.seg.writing import write_seg
from sr_writer.sr.document import write_sr
from study.entities import ResultObject
from study.errors import EncodingError
from study.imaging import ModelIdentity, ResultSet

SEG, SR = "seg", "sr"
FORMS = (SEG, SR)
"""Every form that results can take, in the order in which they are made and sent."""


def write_results(
    result_set: ResultSet,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    folder: Path,
    forms: Sequence[str] = FORMS,
) -> list[ResultObject]:
    """Write every form of a result into `folder`, and return the objects, the Segmentation first.

    Each file is durable, and was read back and held against the source headers, before it is returned. A label map
    without a voxel makes no Segmentation: the report then says what was not detected. Nor do assessments alone.

    Parameters
    ----------
    sources
        Headers of the source images in slice order: `label_map.values[k]` lies on `sources[k]`. For a multi-frame image
        one for each frame (`study.frames.flattened`).
    folder
        Made if absent; the paths of the objects are relative to it.
    forms
        Of `FORMS`.

    Raises
    ------
    EncodingError
        One of MissingIdentity, GeometryMismatch, NonconformantObject, or itself for what can not be written.
    """
    unknown = set(forms) - set(FORMS)
    if unknown:
        raise EncodingError(f"There is no result form {', '.join(sorted(unknown))}; there are {', '.join(FORMS)}.")
    areas = None if result_set.label_map is None else areas_by_slice(result_set.label_map)
    segmented = SEG in forms and areas is not None and bool(areas[:, 1:].any())
    results = []
    segmentation = None
    if segmented:
        results.append(_saved(SEG, write_seg(result_set, sources, model, context, areas=areas), folder))
        segmentation = check_seg(folder / results[-1].path, sources)
    if SR in forms:
        document = write_sr(result_set, sources, model, context, segmentation_is_written=segmented, areas=areas)
        results.append(_saved(SR, document, folder))
        check_sr(folder / results[-1].path, sources, segmentation)
    return results


def _saved(form: str, dataset: Dataset, folder: Path) -> ResultObject:
    path = folder / f"{form}.dcm"
    digest, size = save(dataset, path)
    return ResultObject(
        form=form,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        path=path.name,
        digest=digest,
        size=size,
    )
