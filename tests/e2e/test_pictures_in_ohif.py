"""Pictures and page in OHIF, a viewer that others wrote, over Orthanc: both open, regions where they belong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from pydicom import dcmread

from sr_writer.results import write_results
from study.forms import Form, Variant
from study.imaging import LabelMap, ResultSet
from tests.support.blocks import LIVER, SPLEEN, blocks, grid
from tests.support.network import wait_until
from tests.support.ohif import running_ohif, store, tinted
from tests.support.orthanc import running_orthanc
from tests.support.pictures import ORANGE
from tests.support.results import CONTEXT, MODEL, SEGMENTS
from tests.support.series import ct_series, save_series


def test_pictures_and_page_open(tmp_path: Path) -> None:
    affine, shape = grid("axial, head first, prone", (3.0, 1.0, 1.0))
    voxels, truth = blocks(affine, shape)
    images = save_series(ct_series(voxels, affine), tmp_path / "images")
    sources = [dcmread(path, stop_before_pixels=True) for path in images]
    segments = tuple(zip(SEGMENTS, (LIVER, SPLEEN), strict=True))
    named = tuple(
        type(each)(value, each.label, each.category, each.property_type, rgb=each.rgb) for each, value in segments
    )
    result = ResultSet(LabelMap(truth, affine, named), ())
    variants = (Variant(Form.SC, most_images=3), Variant(Form.PDF))
    objects = write_results(
        result, sources, MODEL, CONTEXT, tmp_path / "out", variants, pixels=lambda index: voxels[index]
    )
    pictures = Path(os.environ.get("OHIF_PICTURES", tmp_path))
    with running_orthanc(tmp_path / "orthanc", dicomweb=True) as orthanc:
        store(orthanc, [*images, *(tmp_path / "out" / each.path for each in objects)])
        with running_ohif(orthanc) as ohif:
            ohif.open(str(sources[0].StudyInstanceUID))
            shown = ohif.load("Lung CT pictures - not for diagnostic use")
            assert (shown.modality, shown.images, shown.unsupported) == ("OT", 3, False)
            wait_until(lambda: ohif.viewport().box is not None, 30, "the picture is drawn")
            first = next(each for each in objects if each.form == "sc")  # on the liver's slices, which are low
            ohif.show_image(first.sop_instance_uid)
            drawn = ohif.picture(pictures / "ohif-sc.png", viewport=True)
            assert tinted(drawn, ORANGE).sum() > 200
            rows, columns = np.nonzero(tinted(drawn, ORANGE))
            # The patient lies prone: right is on the right, and front is below; beside the picture stands the text
            assert columns.mean() > drawn.shape[1] * 0.3
            assert rows.mean() > drawn.shape[0] * 0.5
            page = ohif.load("Lung CT page - not for diagnostic use")
            assert (page.modality, page.unsupported) == ("DOC", False)
            wait_until(lambda: bool(ohif.viewport().frames), 30, "the page is embedded")
            (embedded,) = ohif.viewport().frames
            assert (embedded["tag"], embedded["type"]) == ("object", "application/pdf")
            ohif.picture(pictures / "ohif-pdf.png")  # a browser without a window draws no more than the page's frame
            assert ohif.said() == []
