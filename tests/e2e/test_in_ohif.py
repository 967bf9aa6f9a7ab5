"""Results in OHIF, a viewer that others wrote, over Orthanc: each opens, and shows what and where the model found it.

What stands before the viewer is in `tests.support.ohif_scene`, what must be seen of it in `tests.support.ohif_demands`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from study.changes import compared
from tests.support.blocks import LIVER, SPLEEN
from tests.support.comparisons import series_of
from tests.support.network import wait_until
from tests.support.ohif_demands import (
    demand_capture,
    demand_contour,
    demand_overlay,
    demand_page,
    demand_segments,
    demand_sides,
    demand_something_shown,
    demand_voxels,
    eroded,
    key_image,
    name_of,
)
from tests.support.ohif_scene import (
    ATTENUATIONS,
    CLASSES,
    COLOURS,
    IMAGES,
    LABELS,
    TILTED,
    VOLUMES,
    Scene,
    result_of,
    running_scene,
    study_of_blocks,
)
from tests.support.results import headers_on_disk, variants_of

Objects = dict[str, list[Dataset]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Scene]:
    with running_scene(tmp_path_factory.mktemp("ohif"), lambda line: put_on_record(pytestconfig, line)) as running:
        yield running


@pytest.fixture(scope="module")
def objects(scene: Scene) -> Objects:
    return scene.stored_objects()


def put_on_record(config: pytest.Config, line: str) -> None:
    """Write a line into pytest's own output, also of tests that pass."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        reporter.write_line(line)


def spoilt(source: Dataset, description: str, spoil: Callable[[Dataset], None]) -> Dataset:
    """Return an object with something wrong in it, in a series of its own."""
    spoilt = deepcopy(source)
    spoilt.SOPInstanceUID = spoilt.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    spoilt.SeriesInstanceUID = generate_uid()
    spoilt.SeriesDescription = description
    spoil(spoilt)
    return spoilt


def test_the_images_open_and_lie_where_they_belong(scene: Scene) -> None:
    scene.ohif.open(scene.study)
    assert scene.ohif.find(IMAGES).thumbnail[:2] == ["CT", IMAGES]
    for value in LABELS:
        scene.ohif.show_image(scene.uid(scene.slices_of(value)[2]))
        demand_sides(scene)
        shown = scene.on_page()
        assert set(np.unique(shown)) == {0, value}
        grey = scene.ohif.picture(viewport=True).min(axis=2)
        assert np.mean(grey[eroded(shown == value)] > 200) > 0.99
        assert np.mean(grey[eroded(shown == 0)] < 200) > 0.99
    sides = {value: float(np.argwhere(scene.truth == value)[:, 2].mean()) for value in LABELS}
    assert sides[LIVER] < scene.truth.shape[2] / 2 < sides[SPLEEN]  # the letter R is on the left
    scene.keep_picture("ct")
    assert scene.ohif.said() == []


def test_every_object_of_a_study_opens_beside_the_others(scene: Scene, objects: Objects) -> None:
    scene.ohif.open(scene.study)
    for description in {str(each.SeriesDescription): None for found in objects.values() for each in found}:
        series = scene.ohif.load(description)
        if series.modality in ("SEG", "RTSTRUCT"):
            scene.ohif.accept()
        demand_something_shown(scene)
        assert scene.ohif.said() == [], description


@pytest.mark.parametrize(("form", "rows"), [("seg", []), ("seg_labelmap", ["Background"])])
def test_a_segmentation_lies_over_its_images_in_its_colours(
    scene: Scene, objects: Objects, form: str, rows: list[str]
) -> None:
    (segmentation,) = objects[form]
    scene.ohif.open(scene.study)
    demand_segments(scene, segmentation.SeriesDescription)
    demand_voxels(scene)
    for value in LABELS:
        first, *_, last = scene.slices_of(value)
        demand_overlay(scene, first)
        demand_overlay(scene, last)
    demand_overlay(scene, last + 1)
    scene.ohif.show_image(scene.uid(scene.slices_of(LIVER)[2]))
    demand_sides(scene)
    assert [row.split("\n")[-1] for row in scene.ohif.panel()] == [*rows, *LABELS.values()]
    scene.keep_picture(form.removeprefix("seg_"))
    assert scene.ohif.said() == []


def test_a_structure_set_lies_over_its_images_in_its_colours(scene: Scene, objects: Objects) -> None:
    (structure_set,) = objects["rtstruct"]
    scene.ohif.open(scene.study)
    demand_segments(scene, structure_set.SeriesDescription)
    for value in LABELS:
        first, *_, last = scene.slices_of(value)
        for index in (first, last):
            scene.ohif.show_image(scene.uid(index))
            demand_contour(scene, value, (COLOURS[value],))
        for index in (first - 1, last + 1):
            scene.ohif.show_image(scene.uid(index))
            wait_until(lambda: not scene.ohif.drawn().lines, 10, "no contour")
    scene.ohif.show_image(scene.uid(scene.slices_of(LIVER)[2]))
    demand_sides(scene)
    assert [row.split("\n")[-1] for row in scene.ohif.panel()] == list(LABELS.values())
    scene.keep_picture("rtstruct")
    assert scene.ohif.said() == []


@pytest.mark.parametrize("form", ["sr", "sr_comprehensive"])
def test_a_report_opens_on_its_key_images_with_contours_and_numbers(scene: Scene, objects: Objects, form: str) -> None:
    report, _ = objects[form]
    scene.ohif.open(scene.study)
    measurements = scene.ohif.load_report(report.SeriesDescription)
    assert [each.name for each in measurements] == list(LABELS.values())
    for value, measurement in zip(LABELS, measurements, strict=True):
        expected = [
            f"Volume: {VOLUMES[value]:.2f} mL",
            f"Attenuation Coefficient: {ATTENUATIONS[value]:.2f} [hnsf'U]",
            f"363698007: {LABELS[value]}",
        ]
        assert measurement.lines == expected
        assert measurement.sop_instance_uid == key_image(report, LABELS[value])
        if value != LIVER:
            scene.ohif.next_measurement()
        assert scene.ohif.viewport().sop_instance_uid == measurement.sop_instance_uid
        demand_sides(scene)
        demand_contour(scene, value)
        assert [line for line in scene.ohif.drawn().texts if line] == expected
    scene.keep_picture("sr")
    assert scene.ohif.said() == []


def test_a_comparison_opens_on_its_key_images_and_its_words_say_both_dates(scene: Scene) -> None:
    then = headers_on_disk(scene.folder / "then", (3, 8, 8), attributes={"StudyDate": "20230511"})
    now = result_of(scene.truth, scene.affine)
    result = compared(now, replace(now, label_map=None), series_of(then))
    objects = [each for _, each in scene.written(result, "Compared", earlier=[then])]
    scene.add(*objects)
    _, report, words = objects
    measurements = scene.ohif.load_report(report.SeriesDescription)
    assert [each.name for each in measurements] == list(LABELS.values())
    # The numbers of now alone: one of then, or a change, would stand there without its date
    assert measurements[0].lines[0] == f"Volume: {VOLUMES[LIVER]:.2f} mL"
    assert [len(each.lines) for each in measurements] == [3, 3]
    demand_contour(scene, LIVER)
    text = scene.ohif.load_text(words.SeriesDescription)
    assert "Liver: Volume 5.83 mL on 2026-01-02, 5.83 mL on 2023-05-11 (change 0 mL, 0.0 %);" in text
    assert "Compared with an earlier study: Study of 2023-05-11, series 3 (CT)" in text
    scene.keep_picture("compared")
    assert scene.ohif.said() == []


@pytest.mark.parametrize("form", ["sr", "sr_comprehensive"])
def test_what_was_not_detected_opens_as_text_beside_a_report(scene: Scene, objects: Objects, form: str) -> None:
    report, words = objects[form]
    assert report.SeriesInstanceUID != words.SeriesInstanceUID  # of a series OHIF shows the first report alone
    scene.at_hand(words)
    text = scene.ohif.load_text(words.SeriesDescription)
    assert "Left kidney: not detected." in text
    scene.keep_picture("words")
    assert scene.ohif.said() == []


def test_a_result_without_a_region_opens_as_text(scene: Scene, objects: Objects) -> None:
    (report,) = objects[CLASSES]
    scene.at_hand(report)
    text = scene.ohif.load_text(report.SeriesDescription)
    assert "Pneumothorax: not detected; Certainty of Finding 7 %." in text
    assert "Effusion: detected; Certainty of Finding 93.4 %; on image 1." in text
    assert "Breast density: Density (mean) 12.5 %." in text
    assert scene.ohif.said() == []


def test_a_refusal_opens_as_text_with_its_reason(scene: Scene, objects: Objects) -> None:
    (refusal,) = objects["refusal"]
    scene.at_hand(refusal)
    text = scene.ohif.load_text(refusal.SeriesDescription)
    assert text.splitlines()[0].endswith("NOT ANALYSED")
    assert f"Reason: {TILTED.words}" in text
    scene.keep_picture("refusal")
    assert scene.ohif.said() == []


def test_pictures_open_as_images_with_blocks_and_letters_in_place(scene: Scene, objects: Objects) -> None:
    captures = objects["sc"]
    scene.at_hand(captures[0])
    series = scene.ohif.load(captures[0].SeriesDescription)
    shown = int(scene.truth.any(axis=(1, 2)).sum())
    assert (series.images, scene.ohif.viewport().images, len(captures)) == (shown, shown, shown)
    for capture in (captures[0], captures[-1], captures[2]):
        demand_capture(scene, capture)
    scene.keep_picture("sc")
    assert scene.ohif.said() == []


def test_a_page_opens_in_the_reader_of_pdf_files(scene: Scene, objects: Objects) -> None:
    (document,) = objects["pdf"]
    scene.at_hand(document)
    words = demand_page(scene, document)
    for line in ("Volume: 5.83 mL", "Volume: 7.47 mL", "Left kidney", "not detected", "NOT FOR DIAGNOSTIC USE"):
        assert line in words
    scene.keep_picture("pdf")
    assert scene.ohif.said() == []


def test_a_mirrored_segmentation_is_seen_to_be_wrong(scene: Scene) -> None:
    mirrored = np.ascontiguousarray(scene.truth[:, :, ::-1])
    (segmentation,) = scene.send(result_of(mirrored, scene.affine), "Mirrored", "seg")
    demand_segments(scene, segmentation.SeriesDescription)
    with pytest.raises(AssertionError, match="voxels of slice"):
        demand_voxels(scene)
    with pytest.raises(AssertionError, match="Liver is not drawn on 100%"):
        demand_overlay(scene, scene.slices_of(LIVER)[2], patience=2.0)


def test_a_segmentation_on_the_next_slice_is_seen_to_be_wrong(scene: Scene) -> None:
    (segmentation,) = scene.send(result_of(np.roll(scene.truth, 1, axis=0), scene.affine), "Shifted", "seg")
    demand_segments(scene, segmentation.SeriesDescription)
    with pytest.raises(AssertionError, match="is not drawn"):
        demand_overlay(scene, scene.slices_of(LIVER)[0], patience=2.0)
    with pytest.raises(AssertionError, match="where it must not be"):
        demand_overlay(scene, scene.slices_of(LIVER)[-1] + 1, patience=2.0)


def test_a_background_before_the_segments_shifts_all_colours(scene: Scene, objects: Objects) -> None:
    def put_background_first(segmentation: Dataset) -> None:
        *segments, background = segmentation.SegmentSequence
        segmentation.SegmentSequence = [background, *segments]

    (segmentation,) = objects["seg_labelmap"]
    shifted = spoilt(segmentation, "Background first", put_background_first)
    scene.add(shifted)
    with pytest.raises(AssertionError, match="other colours"):
        demand_segments(scene, shifted.SeriesDescription)


def test_a_mirrored_structure_set_is_seen_to_be_wrong(scene: Scene) -> None:
    mirrored = np.ascontiguousarray(scene.truth[:, :, ::-1])
    (structure_set,) = scene.send(result_of(mirrored, scene.affine), "Mirrored contours", "rtstruct")
    demand_segments(scene, structure_set.SeriesDescription)
    scene.ohif.show_image(scene.uid(scene.slices_of(LIVER)[2]))
    with pytest.raises(AssertionError, match="the contour encloses 0%"):
        demand_contour(scene, LIVER, (COLOURS[LIVER],))


def test_a_mirrored_report_is_seen_to_be_wrong(scene: Scene) -> None:
    mirrored = np.ascontiguousarray(scene.truth[:, :, ::-1])
    report, _ = scene.send(result_of(mirrored, scene.affine), "Mirrored report", "sr")
    scene.ohif.load_report(report.SeriesDescription)
    with pytest.raises(AssertionError, match="the contour encloses 0%"):
        demand_contour(scene, LIVER)


def test_a_report_that_leaves_the_viewport_blank_is_seen_to_be_wrong(scene: Scene, objects: Objects) -> None:
    def leave_measurements_out(report: Dataset) -> None:
        report.ContentSequence = [item for item in report.ContentSequence if name_of(item) != "126010"]

    without = spoilt(objects["sr"][0], "No measurements", leave_measurements_out)
    result = result_of(scene.truth, scene.affine)
    on_segments = scene.written(result, "On segments", variants_of("seg", "sr_segments"))
    scene.store(without, *(each for _, each in on_segments))
    for report in (without, on_segments[-1][1]):
        scene.ohif.open(scene.study)
        scene.ohif.load(report.SeriesDescription)
        wait_until(lambda: bool(scene.ohif.said()), 20, "an error")
        assert not scene.ohif.viewport().alive


def test_pixels_that_are_not_square_put_the_contours_of_reports_in_a_wrong_place(scene: Scene) -> None:
    oblong = study_of_blocks(scene.ohif, scene.orthanc, scene.folder / "oblong", (3.0, 1.2, 1.0))
    objects = oblong.send(result_of(oblong.truth, oblong.affine), "Oblong", "seg", "rtstruct", "sr")
    _, structure_set, report, _ = objects
    oblong.ohif.load_report(report.SeriesDescription)
    with pytest.raises(AssertionError, match=r"the contour encloses 4\d% of Liver"):
        demand_contour(oblong, LIVER)
    demand_segments(oblong, structure_set.SeriesDescription)
    oblong.ohif.show_image(oblong.uid(oblong.slices_of(LIVER)[2]))
    demand_contour(oblong, LIVER, (COLOURS[LIVER],))


def test_mirrored_pictures_are_seen_to_be_wrong(scene: Scene) -> None:
    def mirror(capture: Dataset) -> None:
        pixels = capture.pixel_array
        pixels[:, :512] = pixels[:, 511::-1]
        capture.PixelData = pixels.tobytes()

    result = result_of(np.ascontiguousarray(scene.truth[:, :, ::-1]), scene.affine)
    one = [replace(each, most_images=1) for each in variants_of("sc")]
    ((_, capture),) = scene.written(result, "Mirrored pictures", one)
    mirrored = spoilt(capture, "Mirrored with their letters", mirror)
    scene.add(capture, mirrored)
    for each, complaint in ((capture, "is not drawn on 100%"), (mirrored, "the letter R is not at the left")):
        scene.ohif.load(each.SeriesDescription)
        with pytest.raises(AssertionError, match=complaint):
            demand_capture(scene, each)


def test_a_broken_page_is_seen_to_be_wrong(scene: Scene, objects: Objects) -> None:
    def cut(document: Dataset) -> None:
        document.EncapsulatedDocument = document.EncapsulatedDocument[:1000]
        document.EncapsulatedDocumentLength = 1000

    document = spoilt(objects["pdf"][0], "Broken page", cut)
    scene.add(document)
    with pytest.raises(AssertionError, match="a page with both blocks"):
        demand_page(scene, document, patience=4.0)
