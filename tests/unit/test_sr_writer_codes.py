"""Codes of sites and models: regions, sides, private schemes of others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from sr_writer.checking.seg import check_seg
from sr_writer.checking.sr import check_sr
from sr_writer.reading.content_tree import children
from sr_writer.results import write_results
from sr_writer.seg.writing import write_seg
from study.codes import ANATOMICAL_STRUCTURE, LABEL_SCHEME, LABEL_SCHEME_NAME, Code
from study.errors import EncodingError, NonconformantObject
from study.imaging import ResultSet, Segment
from tests.support.results import ABNORMAL, CONTEXT, MODEL, NEOPLASM, headers_on_disk, lungs, result_of, variants_of

SHAPE = (6, 16, 24)
RIGHT = Code("24028007", "SCT", "Right")
LUNG = Code("39607008", "SCT", "Lung")
KIDNEY = Code("64033007", "SCT", "Kidney")
ABDOMEN = Code("818983003", "SCT", "Abdomen")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE)


def with_segment(segment: Segment) -> ResultSet:
    result = result_of((lungs(SHAPE) == 1).astype("uint8"), segments=(segment,))
    return replace(result, findings=result.findings[:1])


def described(segment: Segment, sources: list[Dataset], folder: Path) -> Dataset:
    write_results(with_segment(segment), sources, MODEL, CONTEXT, folder, variants=variants_of("seg"))
    (item,) = dcmread(folder / "seg.dcm").SegmentSequence
    assert isinstance(item, Dataset)
    return item


def side_of_type(segment: Dataset) -> list[str]:
    items = segment.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence", ())
    return [item.CodeValue for item in items]


def side_of_region(segment: Dataset) -> list[str]:
    regions = segment.get("AnatomicRegionSequence", ())
    return [item.CodeValue for region in regions for item in region.get("AnatomicRegionModifierSequence", ())]


def test_a_tumour_has_the_region_and_the_region_has_the_side(tmp_path: Path, sources: list[Dataset]) -> None:
    segment = described(Segment(1, "Tumor", ABNORMAL, NEOPLASM, RIGHT, LUNG), sources, tmp_path)
    assert [region.CodeValue for region in segment.AnatomicRegionSequence] == [LUNG.value]
    assert (side_of_type(segment), side_of_region(segment)) == ([], [RIGHT.value])


def test_an_organ_has_its_side_itself_whatever_region_it_lies_in(tmp_path: Path, sources: list[Dataset]) -> None:
    segment = described(Segment(1, "Kidney", ANATOMICAL_STRUCTURE, KIDNEY, RIGHT, ABDOMEN), sources, tmp_path)
    assert [region.CodeValue for region in segment.AnatomicRegionSequence] == [ABDOMEN.value]
    assert (side_of_type(segment), side_of_region(segment)) == ([RIGHT.value], [])


def test_without_a_region_the_side_is_the_types(tmp_path: Path, sources: list[Dataset]) -> None:
    segment = described(Segment(1, "Tumor", ABNORMAL, NEOPLASM, RIGHT), sources, tmp_path)
    assert "AnatomicRegionSequence" not in segment
    assert side_of_type(segment) == [RIGHT.value]


def foreign(*schemes: str) -> ResultSet:
    first, second = (Code("X1", scheme, "Thing") for scheme in schemes)
    result = with_segment(Segment(1, "Thing", ANATOMICAL_STRUCTURE, first, region=second))
    finding = replace(result.findings[0], finding=first, site=second, measurements=())
    return replace(result, findings=(finding,), limits=())


def schemes_of(dataset: Dataset) -> dict[str, str]:
    items = dataset.get("CodingSchemeIdentificationSequence", ())
    return {item.CodingSchemeDesignator: item.CodingSchemeName for item in items}


def test_private_schemes_of_others_are_identified_by_their_designator(tmp_path: Path, sources: list[Dataset]) -> None:
    write_results(foreign("99SITE", LABEL_SCHEME), sources, MODEL, CONTEXT, tmp_path)
    for form in ("seg", "sr"):
        found = schemes_of(dcmread(tmp_path / f"{form}.dcm"))
        assert found == {"99SITE": "99SITE", LABEL_SCHEME: LABEL_SCHEME_NAME}
        # Nobody is named as responsible for what is not ours
        items = dcmread(tmp_path / f"{form}.dcm").CodingSchemeIdentificationSequence
        assert [item.CodingSchemeDesignator for item in items if "CodingSchemeResponsibleOrganization" in item] == [
            LABEL_SCHEME
        ]


def test_public_schemes_need_no_identification(tmp_path: Path, sources: list[Dataset]) -> None:
    write_results(foreign("SCT", "FMA"), sources, MODEL, CONTEXT, tmp_path)
    assert not schemes_of(dcmread(tmp_path / "seg.dcm"))


@pytest.mark.parametrize("form", ["seg", "sr"])
def test_a_private_scheme_without_identification_is_refused(tmp_path: Path, sources: list[Dataset], form: str) -> None:
    write_results(foreign("99SITE", "99OTHER"), sources, MODEL, CONTEXT, tmp_path)
    dataset = dcmread(tmp_path / f"{form}.dcm")
    items = dataset.CodingSchemeIdentificationSequence
    dataset.CodingSchemeIdentificationSequence = [item for item in items if item.CodingSchemeDesignator != "99SITE"]
    dataset.save_as(tmp_path / "changed.dcm")
    with pytest.raises(NonconformantObject, match="99SITE is used and not identified"):
        (check_seg if form == "seg" else check_sr)(tmp_path / "changed.dcm", sources)


def test_the_scheme_of_the_sources_own_procedure_is_identified_and_its_bytes_are_kept(tmp_path: Path) -> None:
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "CTTH", "99SITE", "CT Größe"
    sources = headers_on_disk(tmp_path / "in", SHAPE, attributes={"ProcedureCodeSequence": [procedure]})
    write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path)
    document = dcmread(tmp_path / "sr.dcm")
    assert schemes_of(document) == {"99HILUM": "Hilum private codes", "99SITE": "99SITE"}
    (item,) = children(document, Code("121058", "DCM", "Procedure reported"))
    assert item.ConceptCodeSequence[0].CodeMeaning == "CT Größe"


def test_a_procedure_whose_scheme_does_not_fit_is_no_code(tmp_path: Path) -> None:
    procedure = Dataset()
    procedure.CodeValue, procedure.CodeMeaning = "CTTH", "CT thorax"
    procedure.add_new("CodingSchemeDesignator", "SH", "99SITE")
    sources = headers_on_disk(tmp_path / "in", SHAPE, attributes={"ProcedureCodeSequence": [procedure]})
    for source in sources:
        source.ProcedureCodeSequence[0]["CodingSchemeDesignator"]._value = "99" + "S" * 20
    with disable_value_validation():
        write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path, variants=variants_of("sr"))
    (item,) = children(dcmread(tmp_path / "sr.dcm"), Code("121058", "DCM", "Procedure reported"))
    assert item.ConceptCodeSequence[0].CodeValue == "25045-6"


def test_capitals_in_a_meaning_are_no_other_meaning(tmp_path: Path, sources: list[Dataset]) -> None:
    category = Code("123037004", "SCT", "Anatomical structure")
    write_results(with_segment(Segment(1, "Kidney", category, KIDNEY)), sources, MODEL, CONTEXT, tmp_path)


@pytest.mark.parametrize(
    "code", [Code("1" * 17, "SCT", "x"), Code("1", "S" * 17, "x"), Code("1", "SCT", "x" * 65), Code("", "SCT", "x")]
)
def test_a_code_that_does_not_fit_is_refused(sources: list[Dataset], code: Code) -> None:
    with pytest.raises(EncodingError, match="does not fit"):
        write_seg(with_segment(Segment(1, "Thing", ANATOMICAL_STRUCTURE, code)), sources, MODEL, CONTEXT)
