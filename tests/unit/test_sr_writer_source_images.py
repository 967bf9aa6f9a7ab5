"""What is read once of the headers of all source images is what each header says, decoded before or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from sr_writer.source.carrying import set_element, tag_of
from sr_writer.source.grid import demand_place, plane_axes, plane_origin
from sr_writer.source.images import SourceImages, key_of
from study.errors import EncodingError
from tests.support.results import headers_on_disk

SHAPE = (5, 16, 24)


def decoded(source: Dataset) -> Dataset:
    for element in source:
        assert element.tag
    return source


@pytest.mark.parametrize("before", [False, True])
def test_the_planes_are_those_of_the_headers(tmp_path: Path, before: bool) -> None:
    sources = headers_on_disk(tmp_path, SHAPE)
    images = SourceImages.of([decoded(source) for source in sources] if before else sources)
    planes = images.planes
    for index, source in enumerate(headers_on_disk(tmp_path, SHAPE)):
        np.testing.assert_array_equal(planes.origins[index], plane_origin(source))
        np.testing.assert_array_equal(planes.cosines[index], np.array(source.ImageOrientationPatient, dtype=float))
        np.testing.assert_array_equal(planes.spacings[index], np.array(source.PixelSpacing, dtype=float))
        assert tuple(planes.shapes[index]) == SHAPE[1:]
        assert plane_axes(source).shape == (2, 3)


@pytest.mark.parametrize("before", [False, True])
def test_the_names_are_those_of_the_headers(tmp_path: Path, before: bool) -> None:
    sources = headers_on_disk(tmp_path, SHAPE)
    del sources[1].FrameOfReferenceUID
    images = SourceImages.of([decoded(source) for source in sources] if before else sources)
    uids = {
        str(source.get(keyword, ""))
        for source in sources
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    }
    assert images.uids == uids
    assert images.keys == tuple(map(key_of, sources))
    assert images.by_key == dict(zip(map(key_of, sources), sources, strict=True))
    assert images.classes == {str(source.SOPInstanceUID): str(source.SOPClassUID) for source in sources}


def test_what_was_read_is_kept(tmp_path: Path) -> None:
    images = SourceImages.of(headers_on_disk(tmp_path, SHAPE))
    assert SourceImages.of(images) is images
    assert images.planes is images.planes


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
@pytest.mark.parametrize("value", [None, "", []])
def test_an_image_without_a_place_is_named_by_what_it_lacks(tmp_path: Path, keyword: str, value: object) -> None:
    sources = headers_on_disk(tmp_path, SHAPE)
    setattr(sources[3], keyword, value)
    with pytest.raises(EncodingError, match=f"no {keyword}"):
        demand_place(sources)


def test_a_place_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path, SHAPE)
    set_element(sources[2], RawDataElement(tag_of("PixelSpacing"), "DS", 6, b"wide\\1", 0, False, True))
    with pytest.raises(ValueError, match="wide"):
        demand_place(sources)
