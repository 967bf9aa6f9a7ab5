"""Sound result files of every form, and ways to spoil one thing in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from sr_writer.checking.objects import checked
from sr_writer.files import save
from sr_writer.ko.rejection import Rejection, write_rejection
from sr_writer.notices import write_notices
from sr_writer.results import write_results
from sr_writer.source.carrying import set_element, tag_of
from study.errors import EncodingError, GeometryMismatch, Reason
from study.forms import Form, Variant, Wish, settle
from study.imaging import ResultSet
from tests.support.results import CONTEXT, MODEL, headers_on_disk, lungs, result_of

SHAPE = (9, 16, 24)
Change = Callable[[Dataset], object]
Mutation = tuple[Change, str, str]
"""What is changed, the code of the rule that rejects it, and some of its words."""

_SETS = (("seg", "rtstruct", "sr", "sr_comprehensive", "sc", "pdf"), ("seg", "sr_segments"), ("seg_labelmap",))
_TAKEN_OVER = frozenset(map(tag_of, ("RequestAttributesSequence", "ReferencedRequestSequence")))


@dataclass(frozen=True)
class Written:
    """Sound files by form, what they were made of, and the headers of their source."""

    files: dict[Form, Path]
    result: ResultSet
    sources: list[Dataset]

    @property
    def segmentation(self) -> Dataset:
        """The Segmentation that the reports are about."""
        return dcmread(self.files[Form.SEG])


def everything(folder: Path) -> Written:
    """Write one result in every form."""
    order = Dataset()
    order.RequestedProcedureID, order.AccessionNumber = "RP1", "A9"
    attributes = {"PatientName": "Müller^Jürgen", "IssuerOfPatientID": "A", "RequestAttributesSequence": [order]}
    sources = headers_on_disk(folder / "in", SHAPE, attributes=attributes)
    result = result_of(lungs(SHAPE))
    files: dict[Form, Path] = {}
    for forms in _SETS:
        into = folder / forms[-1]
        variants = settle(Wish("pacs", tuple(map(Form, forms)), most_images=1), {}).variants
        for made in write_results(result, sources, MODEL, CONTEXT, into, variants, pixels=picture):
            files.setdefault(Form(made.form), into / made.path)
    tilted, variant = Reason("GantryTilt", "The gantry was tilted."), Variant(Form.REFUSAL)
    (notice,) = write_notices([tilted], sources, MODEL, CONTEXT, folder, [variant], failed=False)
    taken_back = [dcmread(files[Form.SEG], stop_before_pixels=True)]
    rejection = write_rejection(Rejection("Sides are confused."), taken_back, MODEL, CONTEXT)
    save(rejection, folder / "rejection.dcm")
    others = {Form.REFUSAL: folder / notice.path, Form.REJECTION: folder / "rejection.dcm"}
    return Written(files | others, result, sources)


def picture(index: int) -> NDArray[np.float32]:
    """Return some pixels of a source image."""
    return np.random.default_rng(index).normal(0.0, 100.0, SHAPE[1:]).astype(np.float32)


def changed(path: Path, change: Change, folder: Path) -> Path:
    """Return a copy of a file in which one thing is changed."""
    dataset = dcmread(path)
    with disable_value_validation():
        change(dataset)
        dataset.save_as(folder / "changed.dcm")
    return folder / "changed.dcm"


def reasons_against(written: Written, form: Form, change: Change, folder: Path) -> tuple[Reason, ...]:
    """Return what the check has against a file in which one thing is changed; it must have something."""
    path = changed(written.files[form], change, folder)
    with disable_value_validation(), pytest.raises(EncodingError) as caught:
        checked(form, path, written.sources, [written.segmentation])
    reasons = caught.value.reasons
    assert caught.value.file == "changed.dcm"
    assert isinstance(caught.value, GeometryMismatch) == any(reason.code == "GeometryMismatch" for reason in reasons)
    return reasons


def demand(reasons: tuple[Reason, ...], code: str, words: str) -> None:
    """Return if one of the reasons has this code and these words."""
    told = [(reason.code, reason.words) for reason in reasons]
    assert any(code == reason.code and words in reason.words for reason in reasons), told


def setting(keyword: str, value: object) -> Change:
    """Return the change that sets an element."""
    return lambda dataset: setattr(dataset, keyword, value)


def deleting(keyword: str) -> Change:
    """Return the change that takes an element away."""
    return lambda dataset: delattr(dataset, keyword)


def setting_bytes(keyword: str, vr: str, value: bytes) -> Change:
    """Return the change that sets an element as it stands in the file."""
    tag = tag_of(keyword)
    return lambda dataset: set_element(dataset, RawDataElement(tag, vr, len(value), value, 0, False, True))


def in_first(keyword: str, change: Change) -> Change:
    """Return the change of the first item of ours, wherever it is, that has an element."""

    def changing(dataset: Dataset) -> None:
        item = _first(dataset, keyword)
        assert item is not None
        change(item)

    return changing


def _first(dataset: Dataset, keyword: str) -> Dataset | None:
    for element in dataset:
        if element.VR != "SQ" or element.tag in _TAKEN_OVER:
            continue
        for item in element.value:
            # A study is referred to by a retired class, which no rule of ours is about
            here = keyword in item and "RTReferencedSeriesSequence" not in item
            found = item if here else _first(item, keyword)
            if found is not None:
                return found
    return None


def own_equipment(dataset: Dataset) -> Dataset:
    """Return the item of Contributing Equipment that names the algorithm."""
    item: Dataset = next(item for item in dataset.ContributingEquipmentSequence if "DeviceUID" in item)
    return item
