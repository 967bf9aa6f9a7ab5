"""From why a series was not analysed to reports that say so, on disk: written, synced, read back and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from sr_writer.checking.objects import checked
from sr_writer.context import ResultContext
from sr_writer.saving import saved
from sr_writer.sr.refusal import write_refusal
from study.entities import ResultObject
from study.errors import Reason
from study.forms import Variant, in_order
from study.imaging import ModelIdentity


def write_notices(
    reasons: Sequence[Reason],
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    folder: Path,
    variants: Sequence[Variant],
    *,
    failed: bool,
    images: int | None = None,
) -> list[ResultObject]:
    """Write every variant of a refusal report into `folder`, and return the objects.

    Each file is durable, and was read back and checked, before it is returned.

    Parameters
    ----------
    reasons
        Why the series was not analysed; one or more.
    sources
        Headers of images of the series, in any order. Nothing is asked of them but whose they are.
    folder
        Made if absent; the paths of the objects are relative to it.
    variants
        Of the form `refusal`.
    failed
        Whether the analysis was begun and failed, rather than refused.
    images
        How many images of the series were there when it was judged; None where nobody says.

    Raises
    ------
    EncodingError
        One of MissingIdentity, NonconformantObject, or itself for what can not be written.
    """
    results = []
    for number, variant in enumerate(in_order(variants), 1):
        dataset = write_refusal(reasons, sources, model, context, variant, failed=failed, images=images)
        result = saved(variant, number, dataset, folder)
        checked(variant.form, folder / result.path, sources)
        results.append(result)
    return results
