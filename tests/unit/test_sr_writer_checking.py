"""Every rule of Segmentations and reports rejects an object that breaks it, and only such.

Each test spoils one thing in a sound file. What every form must keep: `test_sr_writer_checking_common`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import UID

from sr_writer import codes
from sr_writer.checking.objects import checked
from sr_writer.checking.seg import check_seg
from sr_writer.checking.seg_set import check_set
from sr_writer.checking.sr import check_sr
from sr_writer.material import Material
from sr_writer.reading.content_tree import children, descendants
from sr_writer.results import write_results
from study.codes import CERTAINTY_OF_FINDING, Code
from study.errors import NonconformantObject
from study.forms import Form, Variant
from study.imaging import ResultSet
from tests.support.mutations import (
    Change,
    Mutation,
    Written,
    changed,
    deleting,
    demand,
    everything,
    reasons_against,
    setting,
)
from tests.support.peers import REPOSITORY
from tests.support.results import CONTEXT, MODEL, assessments
from tests.unit.test_sr_writer_checking_common import FILES, RULES

GEOMETRY = "GeometryMismatch"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return everything(tmp_path_factory.mktemp("written"))


def in_frame(change: Change, index: int = 1) -> Change:
    return lambda dataset: change(dataset.PerFrameFunctionalGroupsSequence[index])


def in_shared(change: Change) -> Change:
    return lambda dataset: change(dataset.SharedFunctionalGroupsSequence[0])


def in_segment(change: Change) -> Change:
    return lambda dataset: change(dataset.SegmentSequence[1])


def source_image(frame: Dataset) -> Dataset:
    image: Dataset = frame.DerivationImageSequence[0].SourceImageSequence[0]
    return image


def swap_rows_and_columns(dataset: Dataset) -> None:
    dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows


def blank_frame(dataset: Dataset) -> None:
    size = dataset.Rows * dataset.Columns // 8
    dataset.PixelData = bytes(size) + dataset.PixelData[size:]


def repeat_frame(dataset: Dataset) -> None:
    frames = dataset.PerFrameFunctionalGroupsSequence
    frames[1] = frames[0]


def on_the_next_image(dataset: Dataset) -> None:
    one, other = (source_image(dataset.PerFrameFunctionalGroupsSequence[index]) for index in (1, 2))
    one.ReferencedSOPInstanceUID = other.ReferencedSOPInstanceUID


def measure(change: Change) -> Change:
    return in_shared(lambda shared: change(shared.PixelMeasuresSequence[0]))


def of_class(uid: str) -> Change:
    def changing(document: Dataset) -> None:
        document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = UID(uid)

    return changing


SEG: dict[str, Mutation] = {
    "a frame elsewhere": (
        in_frame(lambda f: setattr(f.PlanePositionSequence[0], "ImagePositionPatient", [-20, -30, -37])),
        GEOMETRY,
        "Image Position of 1 frames",
    ),
    "a mirrored orientation": (
        in_shared(lambda s: setattr(s.PlaneOrientationSequence[0], "ImageOrientationPatient", [-1, 0, 0, 0, 1, 0])),
        GEOMETRY,
        "Image Orientation",
    ),
    "another pixel spacing": (measure(setting("PixelSpacing", [0.7, 0.8])), GEOMETRY, "Pixel Spacing"),
    "another distance of slices": (measure(setting("SpacingBetweenSlices", "5")), GEOMETRY, "Spacing Between Slices"),
    "another frame of reference": (setting("FrameOfReferenceUID", "2.25.8"), GEOMETRY, "Frame of Reference"),
    "a frame on the neighbour's image": (on_the_next_image, GEOMETRY, "Image Position"),
    "rows and columns swapped": (swap_rows_and_columns, GEOMETRY, "Rows or Columns"),
    "another class": (of_class("1.2.840.10008.5.1.4.1.1.30"), "Form", "SOPClassUID"),
    "a fractional type": (setting("SegmentationType", "FRACTIONAL"), "Form", "SegmentationType"),
    "another modality": (setting("Modality", "OT"), "Form", "Modality"),
    "lossy compression": (setting("LossyImageCompression", "01"), "Form", "Lossy Image Compression"),
    "more bits": (setting("BitsStored", 8), "Form", "BitsStored"),
    "a lost frame": (lambda d: d.PerFrameFunctionalGroupsSequence.pop(), "Form", "Number of Frames"),
    "short pixel data": (lambda d: setattr(d, "PixelData", d.PixelData[:-2]), "Form", "Pixel Data has"),
    "a frame of no segment": (in_frame(deleting("SegmentIdentificationSequence")), "Form", "name a segment"),
    "an empty frame": (blank_frame, "Pixels", "1 frames are empty"),
    "an overlap that is none": (setting("SegmentsOverlap", "YES"), "Pixels", "Segments Overlap is YES"),
    "a frame twice": (repeat_frame, "Reference", "same segment on the same image"),
    "a gap in the numbers": (in_segment(setting("SegmentNumber", 3)), "Segment", "numbered 1, 2"),
    "a segment without algorithm": (in_segment(deleting("SegmentAlgorithmName")), "Segment", "SegmentAlgorithmName"),
    "a segment without colour": (in_segment(deleting("RecommendedDisplayCIELabValue")), "Segment", "CIELab"),
    "the same tracking twice": (
        lambda d: setattr(d.SegmentSequence[1], "TrackingUID", d.SegmentSequence[0].TrackingUID),
        "Segment",
        "Tracking UIDs",
    ),
    "a frame of a segment that is not there": (
        in_frame(lambda f: setattr(f.SegmentIdentificationSequence[0], "ReferencedSegmentNumber", 4)),
        "Segment",
        "exactly the segments",
    ),
    "a frame without source": (
        in_frame(setting("DerivationImageSequence", [])),
        "Reference",
        "1 frames do not refer",
    ),
    "locations not preserved": (
        in_frame(lambda f: setattr(source_image(f), "SpatialLocationsPreserved", "NO")),
        "Reference",
        "1 frames do not refer",
    ),
    "an image of another study": (
        in_frame(lambda f: setattr(source_image(f), "ReferencedSOPInstanceUID", "2.25.6")),
        "Reference",
        "1 frames refer to no source image",
    ),
    "no series": (deleting("ReferencedSeriesSequence"), "Reference", "source series is not referenced"),
    "a code of another meaning": (
        in_segment(lambda s: setattr(s.SegmentedPropertyTypeCodeSequence[0], "CodeMeaning", "Right lung")),
        "Code",
        "44029006/SCT",
    ),
}


@pytest.mark.parametrize("name", sorted(SEG))
def test_rules_of_a_segmentation(written: Written, tmp_path: Path, name: str) -> None:
    change, code, words = SEG[name]
    demand(reasons_against(written, Form.SEG, change, tmp_path), code, words)


def group(document: Dataset, index: int = 0) -> Dataset:
    (container,) = children(document, codes.IMAGING_MEASUREMENTS)
    return list(children(container, codes.MEASUREMENT_GROUP))[index]


def in_group(change: Change) -> Change:
    return lambda document: change(group(document))


def without(name: Code) -> Change:
    def changing(item: Dataset) -> None:
        left_out = list(children(item, name))
        assert left_out
        item.ContentSequence = ItemSequence([child for child in item.ContentSequence if child not in left_out])

    return changing


def in_child(name: Code, change: Change) -> Change:
    return lambda item: change(next(children(item, name)))


def in_region(change: Change) -> Change:
    return in_group(in_child(codes.IMAGE_REGION, change))


def in_number(change: Change) -> Change:
    return in_group(lambda item: change(next(children(item, value_type="NUM")).MeasuredValueSequence[0]))


def move_region(region: Dataset) -> None:
    region.GraphicData = [float(value) + 20.0 for value in region.GraphicData]


def open_region(region: Dataset) -> None:
    region.GraphicData = list(region.GraphicData)[:-2]


def repeat(sequence: str) -> Change:
    return lambda item: item[sequence].value.append(item[sequence].value[0])


def same_tracking(document: Dataset) -> None:
    one, other = (next(children(group(document, index), codes.TRACKING_UNIQUE_IDENTIFIER)) for index in (0, 1))
    other.UID = one.UID


def add_smaller(item: Dataset) -> None:
    content = item.ContentSequence
    region = next(child for child in content if child.ValueType == "SCOORD")
    smaller = Dataset()
    smaller.update(region)
    points = np.array(region.GraphicData).reshape(-1, 2)
    within = points.mean(axis=0) + (points - points.mean(axis=0)) / 4
    smaller.GraphicData = [float(value) for value in within.ravel()]
    content.insert(list(content).index(region), smaller)


def evidence(document: Dataset) -> Dataset:
    series: Dataset = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    return series


def image_of(region: Dataset) -> Dataset:
    image: Dataset = region.ContentSequence[0].ReferencedSOPSequence[0]
    return image


def leave_images_out(document: Dataset) -> None:
    (library,) = children(document, codes.IMAGE_LIBRARY)
    (images,) = children(library, codes.IMAGE_LIBRARY_GROUP)
    images.ContentSequence = ItemSequence([child for child in images.ContentSequence if child.ValueType != "IMAGE"][:0])
    images.ContentSequence.append(next(item for item in descendants(group(document)) if item.ValueType == "IMAGE"))


SR: dict[str, Mutation] = {
    "another title": (
        lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeValue", "126001"),
        "Tree",
        "126000",
    ),
    "verified": (setting("VerificationFlag", "VERIFIED"), "Form", "VerificationFlag"),
    "partial": (setting("CompletionFlag", "PARTIAL"), "Form", "CompletionFlag"),
    "another class": (of_class("1.2.840.10008.5.1.4.1.1.88.11"), "Form", "SOPClassUID"),
    "another template": (
        lambda d: setattr(d.ContentTemplateSequence[0], "TemplateIdentifier", "2000"),
        "Tree",
        "TID 1500",
    ),
    "no procedure": (without(codes.PROCEDURE_REPORTED), "Tree", "procedure reported"),
    "another observer": (in_child(codes.DEVICE_OBSERVER_UID, setting("UID", "2.25.4")), "Equipment", "observer"),
    "no measurements": (without(codes.IMAGING_MEASUREMENTS), "Tree", "neither a measurement group"),
    "no library": (without(codes.IMAGE_LIBRARY), "Tree", "Image Library"),
    "images that the library lacks": (leave_images_out, "Reference", "that the Image Library lacks"),
    "no tracking UID": (in_group(without(codes.TRACKING_UNIQUE_IDENTIFIER)), "Group", "Tracking Identifier or"),
    "no tracking identifier": (in_group(without(codes.TRACKING_IDENTIFIER)), "Group", "Tracking Identifier or"),
    "the same tracking UID twice": (same_tracking, "Tracking", "same Tracking UID"),
    "no finding": (in_group(without(codes.FINDING)), "Group", "Finding is absent"),
    "no site": (in_group(without(codes.FINDING_SITE)), "Group", "Finding Site is absent"),
    "a volume in a planar group": (
        in_group(lambda item: setattr(item.ContentTemplateSequence[0], "TemplateIdentifier", "1410")),
        "Group",
        "planar group",
    ),
    "a group of another template": (
        in_group(lambda item: setattr(item.ContentTemplateSequence[0], "TemplateIdentifier", "1501")),
        "Group",
        "marked as TID 1501",
    ),
    "a number without value": (
        in_group(lambda item: setattr(next(children(item, value_type="NUM")), "MeasuredValueSequence", [])),
        "Group",
        "no value",
    ),
    "an empty number": (in_number(deleting("NumericValue")), "Group", "not finite"),
    "a number without unit": (in_number(setting("MeasurementUnitsCodeSequence", [])), "Group", "no unit"),
    "an open contour": (in_region(open_region), "Group", "no closed polyline"),
    "a contour off the image": (in_region(move_region), "Group", "leaves its image"),
    "a smaller contour first": (in_group(add_smaller), "Group", "not the largest"),
    "a contour on another study's image": (
        in_region(lambda region: setattr(image_of(region), "ReferencedSOPInstanceUID", "2.25.3")),
        "Group",
        "no source image",
    ),
    "an image of another study": (
        in_region(lambda region: setattr(image_of(region), "ReferencedSOPInstanceUID", "2.25.3")),
        "Reference",
        "1 images of the report are no source images",
    ),
    "evidence left out": (lambda d: evidence(d).ReferencedSOPSequence.pop(), "Reference", "not listed as evidence"),
    "evidence twice": (lambda d: repeat("ReferencedSOPSequence")(evidence(d)), "Reference", "as evidence twice"),
    "an unidentified private scheme": (deleting("CodingSchemeIdentificationSequence"), "Code", "not identified"),
    "another name than its segment": (
        in_group(in_child(codes.TRACKING_IDENTIFIER, setting("TextValue", "Left lung"))),
        "Tracking",
        "different identifiers",
    ),
}


@pytest.mark.parametrize("name", sorted(SR))
def test_rules_of_a_report(written: Written, tmp_path: Path, name: str) -> None:
    change, code, words = SR[name]
    demand(reasons_against(written, Form.SR, change, tmp_path), code, words)


def test_zero_is_a_number(written: Written, tmp_path: Path) -> None:
    path = changed(written.files[Form.SR], in_number(setting("NumericValue", "0.0")), tmp_path)
    check_sr(path, written.sources)


def test_contours_where_the_segmentation_has_nothing_are_refused(written: Written, tmp_path: Path) -> None:
    def swap_tracking(segmentation: Dataset) -> None:
        first, second = segmentation.SegmentSequence
        for keyword in ("TrackingUID", "TrackingID"):
            first[keyword].value, second[keyword].value = second[keyword].value, first[keyword].value

    # The left lung begins one slice after the right one, so the right one's contours do not fit on it
    segmentation = check_seg(changed(written.files[Form.SEG], swap_tracking, tmp_path), written.sources)
    with pytest.raises(NonconformantObject, match="does not have it"):
        check_sr(written.files[Form.SR], written.sources, [segmentation])


def add_contour(item: Dataset) -> None:
    region = Dataset()
    region.ValueType, region.RelationshipType = "SCOORD", "CONTAINS"
    region.GraphicType, region.GraphicData = "POLYLINE", [1.0, 1.0, 2.0, 1.0, 2.0, 2.0, 1.0, 1.0]
    item.ContentSequence.append(region)


def two_segments(item: Dataset) -> None:
    item.ContentSequence.append(next(children(item, codes.REFERENCED_SEGMENT)))


SR_SEGMENTS: dict[str, Mutation] = {
    "two segments": (in_group(two_segments), "Group", "more than one segment"),
    "contours too": (in_group(add_contour), "Group", "contours besides"),
    "another series": (
        in_group(in_child(codes.SOURCE_SERIES_FOR_SEGMENTATION, setting("UID", "2.25.4"))),
        "Group",
        "not that of the images",
    ),
    "another segment": (
        in_group(
            in_child(
                codes.REFERENCED_SEGMENT,
                lambda item: setattr(item.ReferencedSOPSequence[0], "ReferencedSegmentNumber", 2),
            )
        ),
        "Group",
        "tracked as another",
    ),
}


@pytest.mark.parametrize("name", sorted(SR_SEGMENTS))
def test_rules_of_a_report_on_segments(written: Written, tmp_path: Path, name: str) -> None:
    change, code, words = SR_SEGMENTS[name]
    demand(reasons_against(written, Form.SR_SEGMENTS, change, tmp_path), code, words)


@pytest.fixture(scope="module")
def of_words(written: Written, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A report of a result without regions, which says everything in words."""
    folder = tmp_path_factory.mktemp("words")
    result = ResultSet(None, (), assessments=assessments())
    (report,) = write_results(result, written.sources, MODEL, CONTEXT, folder)
    return Written({Form.SR: folder / report.path}, result, written.sources)


def sentence(document: Dataset, index: int = 0) -> Dataset:
    return [item for name in (codes.DETECTION, codes.MEASURED) for item in children(document, name, "TEXT")][index]


def statement(document: Dataset, index: int = 0) -> Dataset:
    return next(children(sentence(document, index), value_type="CODE"))


def certainty(document: Dataset) -> Dataset:
    item: Dataset = next(children(statement(document), CERTAINTY_OF_FINDING)).MeasuredValueSequence[0]
    return item


WORDS: dict[str, Mutation] = {
    "a region": (add_contour, "Tree", "has a measurement group or a region"),
    "no summary": (without(codes.SUMMARY), "Tree", "no summary"),
    "a sentence without codes": (
        lambda d: setattr(sentence(d), "ContentSequence", []),
        "Statement",
        "not one coded statement",
    ),
    "a sentence that says something else": (
        lambda d: setattr(sentence(d), "TextValue", "Pneumothorax: detected, 99 %"),
        "Statement",
        "does not say what the codes",
    ),
    "a statement about nothing": (lambda d: without(codes.FINDING)(statement(d)), "Statement", "Finding is absent"),
    "neither a detection nor a number": (
        lambda d: setattr(statement(d).ConceptNameCodeSequence[0], "CodeValue", "OTHER"),
        "Statement",
        "neither about a detection nor about a number",
    ),
    "two certainties": (
        lambda d: statement(d).ContentSequence.append(next(children(statement(d), CERTAINTY_OF_FINDING))),
        "Statement",
        "not one certainty",
    ),
    "neither detected nor not": (
        lambda d: setattr(statement(d).ConceptCodeSequence[0], "CodeValue", "52101004"),
        "Statement",
        "neither that something was detected",
    ),
    "another certainty than possible": (
        lambda d: setattr(certainty(d), "NumericValue", "107"),
        "Statement",
        "not from 0 to 100",
    ),
    "a certainty in another unit": (
        lambda d: setattr(certainty(d).MeasurementUnitsCodeSequence[0], "CodeValue", "1"),
        "Statement",
        "not in percent",
    ),
}


@pytest.mark.parametrize("name", sorted(WORDS))
def test_rules_of_a_report_of_words(of_words: Written, tmp_path: Path, name: str) -> None:
    change, code, words = WORDS[name]
    path = changed(of_words.files[Form.SR], change, tmp_path)
    with pytest.raises(NonconformantObject) as caught:
        checked(Form.SR, path, of_words.sources)
    demand(caught.value.reasons, code, words)


OTHERS: dict[Form, dict[str, Mutation]] = {
    Form.SEG_LABELMAP: {
        "a dimension that counts anew": (
            in_frame(lambda f: setattr(f.FrameContentSequence[0], "DimensionIndexValues", [7, 7])),
            "Dimension",
            "",
        ),
    },
    Form.RTSTRUCT: {
        "a region without colour": (
            lambda d: delattr(d.ROIContourSequence[0], "ROIDisplayColor"),
            "Region",
            "no colour",
        ),
    },
    Form.SC: {
        "another side": (setting("PatientOrientation", ["R", "P"]), "Orientation", "not that of the source image"),
    },
    Form.PDF: {"half a document": (setting("EncapsulatedDocumentLength", 10), "Content", "bytes")},
    Form.REFUSAL: {
        "no reason": (without(codes.REASON), "Words", "no words under"),
    },
    Form.REJECTION: {
        "no reason": (without(codes.KEY_OBJECT_DESCRIPTION), "Words", "in words why"),
        "another title": (
            lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeValue", "113000"),
            "Tree",
            "no rejection by TID 2010",
        ),
        "another observer": (
            in_child(codes.DEVICE_OBSERVER_UID, setting("UID", "2.25.8")),
            "Equipment",
            "not the device",
        ),
        "another value type": (
            lambda d: setattr(d.ContentSequence[-1], "ValueType", "COMPOSITE"),
            "Tree",
            "is no IMAGE",
        ),
        "an object twice": (lambda d: d.ContentSequence.append(d.ContentSequence[-1]), "Reference", "an object twice"),
        "no evidence": (
            lambda d: setattr(d, "CurrentRequestedProcedureEvidenceSequence", []),
            "Reference",
            "not what it rejects",
        ),
    },
}
"""One for each kind of rule that these forms have besides; all of their rules: the tests of the forms."""


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, found in OTHERS.items() for name in found])
def test_rules_of_other_forms(written: Written, tmp_path: Path, form: Form, name: str) -> None:
    change, code, words = OTHERS[form][name]
    demand(reasons_against(written, form, change, tmp_path), code, words)


SETS: dict[str, tuple[Change, str]] = {
    "another number": (setting("InstanceNumber", 2), "not numbered 1, 2"),
    "another label map": (blank_frame, "do not hold the label map"),
}


@pytest.mark.parametrize("name", sorted(SETS))
def test_rules_of_the_segmentations_of_a_set(written: Written, tmp_path: Path, name: str) -> None:
    change, words = SETS[name]
    segmentation = written.segmentation
    change(segmentation)
    material = Material(written.result, written.sources, MODEL, CONTEXT)
    with pytest.raises(NonconformantObject) as caught:
        check_set([segmentation], material, Variant(Form.SEG))
    demand(caught.value.reasons, "Set", words)


def codes_in(path: Path) -> Iterator[str]:
    """Yield the code of every reason that a module gives."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Reason":
            code = node.args[0]
            yield str(code.value) if isinstance(code, ast.Constant) else GEOMETRY


def test_every_kind_of_rule_has_a_mutation_that_it_rejects() -> None:
    """A kind of rule that nothing here breaks may as well be absent."""
    tables = (SEG, SR, SR_SEGMENTS, WORDS, RULES, *OTHERS.values())
    broken = {code for table in tables for _, code, _ in table.values()}
    modules = sorted((REPOSITORY / "sr_writer" / "checking").glob("*.py"))
    given = {code for path in modules for code in codes_in(path)}
    # Of sets, of files as they lie on disk, of comparisons (test_sr_writer_comparison): tables of their own
    assert given - broken == {"Set", "File", "Change", "Earlier"}
    assert SETS
    assert FILES
