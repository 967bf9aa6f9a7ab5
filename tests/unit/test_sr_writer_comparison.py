"""What a report says of earlier studies: numbers of then, changes, references; and what the check holds of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from sr_writer import codes as report_codes
from sr_writer.checking.objects import checked
from sr_writer.material import Material
from sr_writer.picture.scene import scene_of
from sr_writer.reading.content_tree import children, descendants, is_named
from sr_writer.reading.report import ChangeRow, Report, groups_of, read_report
from sr_writer.results import write_results
from sr_writer.sr.changes import change_words, difference
from sr_writer.sr.statements import for_reading
from study import codes
from study.codes import Code
from study.errors import EncodingError
from study.forms import Form, Wish, settle
from study.imaging import EarlierValue, Measurement
from tests.support.comparisons import REFUSED, SHAPE, SPRING, WINTER, Compared, compared_lungs, series_of
from tests.support.mutations import Change, changed, demand
from tests.support.results import CONTEXT, MODEL, headers_on_disk

FORMS = ("seg", "sr", "sr_comprehensive", "sc", "pdf")


def pixels(index: int) -> NDArray[np.float32]:
    return np.random.default_rng(index).normal(0.0, 100.0, SHAPE[1:]).astype(np.float32)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    return compared_lungs(tmp_path_factory.mktemp("images"))


def written(material: Compared, folder: Path, *forms: str) -> list[Path]:
    variants = settle(Wish("pacs", tuple(map(Form, forms)), most_images=1), {}).variants
    made = write_results(
        material.result, material.sources, MODEL, CONTEXT, folder, variants, pixels, earlier=material.earlier
    )
    return [folder / result.path for result in made]


@pytest.fixture(scope="module")
def files(material: Compared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("results")
    made = [*written(material, folder / "a", *FORMS), *written(material, folder / "b", "seg", "sr_segments")]
    return {path.stem: path for path in made}


@pytest.fixture(scope="module")
def report(files: dict[str, Path]) -> Report:
    return read_report(files["sr"])


def test_each_number_has_the_one_of_each_earlier_study_below_it(report: Report, material: Compared) -> None:
    spring, winter = (str(headers[0].StudyInstanceUID) for headers in material.earlier)
    volume, attenuation, low, _ = report.findings[0].measurements
    assert (volume.value, volume.changes) == (
        1700.3,
        (ChangeRow(spring, SPRING, 1780.3, -80.0, -4.5), ChangeRow(winter, WINTER, 1640.3, 60.0, 3.7)),
    )
    assert attenuation.changes[0] == ChangeRow(spring, SPRING, -732.5, -80.0, None)
    assert low.changes[0] == ChangeRow(spring, SPRING, 83.3, -80.05, None)
    assert [row.changes for row in report.findings[1].measurements] == [(), (), ()]


@pytest.mark.parametrize("name", ["sr", "sr_comprehensive", "sr_segments"])
def test_whoever_gathers_volumes_finds_those_of_now_alone(files: dict[str, Path], name: str) -> None:
    document = dcmread(files[name])
    for group in groups_of(document):
        volumes = [item for item in descendants(group) if is_named(item, codes.VOLUME)]
        assert volumes == list(children(group, codes.VOLUME))


def test_words_say_both_dates(files: dict[str, Path]) -> None:
    words = read_report(files["sr-2"])
    assert words.series_description == "Lung CT comparison - not for diagnostic use"
    assert words.sentences[0] == (
        "Right lung: Volume 1700.3 mL on 2026-01-02, 1780.3 mL on 2023-05-11 (change -80 mL, -4.5 %), "
        "1640.3 mL on 2021-03-02 (change +60 mL, +3.7 %); "
        "Attenuation Coefficient (mean) -812.5 HU on 2026-01-02, -732.5 HU on 2023-05-11 (change -80 HU), "
        "-872.5 HU on 2021-03-02 (change +60 HU); "
        "LAA-950 3.25 % on 2026-01-02, 83.3 % on 2023-05-11 (change -80.05 percentage points), "
        "-56.8 % on 2021-03-02 (change +60.05 percentage points); "
        "Perc15 -921 HU on 2026-01-02, -841 HU on 2023-05-11 (change -80 HU), -981 HU on 2021-03-02 (change +60 HU)."
    )
    assert words.sentences[1].endswith("Not compared with earlier studies: it is not whole in the present images.")
    assert words.compared_with == (
        'Study of 2023-05-11, series 3 (CT) "Lung 1.0 B31f", 9 images.',
        'Study of 2021-03-02, series 3 (CT) "Lung 1.0 B31f", 9 images.',
    )
    assert REFUSED in words.limits


@pytest.mark.parametrize("name", ["sr", "sr-2", "sr_comprehensive", "sr_comprehensive-2", "sr_segments"])
def test_every_image_of_then_is_listed_under_its_own_study(
    files: dict[str, Path], material: Compared, name: str
) -> None:
    document = dcmread(files[name])
    listed = {
        str(study.StudyInstanceUID): [
            str(item.ReferencedSOPInstanceUID)
            for series in study.ReferencedSeriesSequence
            for item in series.ReferencedSOPSequence
        ]
        for study in document.PertinentOtherEvidenceSequence
    }
    assert listed == {
        str(headers[0].StudyInstanceUID): [str(each.SOPInstanceUID) for each in headers] for headers in material.earlier
    }
    (current,) = document.CurrentRequestedProcedureEvidenceSequence
    assert current.StudyInstanceUID == material.sources[0].StudyInstanceUID


@pytest.mark.parametrize("name", ["seg", "sc", "pdf"])
def test_other_forms_refer_to_the_present_study_alone(files: dict[str, Path], material: Compared, name: str) -> None:
    document = dcmread(files[name])
    earlier = {str(each.SOPInstanceUID) for each in material.images}
    assert "PertinentOtherEvidenceSequence" not in document
    assert not [element for element in document.iterall() if element.VR == "UI" and element.value in earlier]


def test_a_picture_shows_no_date_of_any_study_and_a_page_does(material: Compared) -> None:
    limited = replace(material.result, earlier_limits=("The images of 2023-05-11 were made otherwise.",))
    scene = scene_of(Material(limited, material.sources, MODEL, CONTEXT, pixels, material.earlier))
    drawn = [text for each in scene.captions for text in (each.head, each.line, *each.numbers, *each.remarks)]
    assert not [text for text in (*drawn, *scene.limits) if re.search(r"20\d\d", text)]
    assert scene.captions[0].numbers_compared[0] == (
        "Volume: 1700.3 mL, 1780.3 mL on 2023-05-11 (change -80 mL, -4.5 %), 1640.3 mL on 2021-03-02 (change +60 mL, "
        "+3.7 %)"
    )
    assert scene.captions[1].earlier == ("Not compared with earlier studies: it is not whole in the present images.",)
    assert scene.earlier[0].startswith("Compared with an earlier study: Study of 2023-05-11, series 3 (CT)")
    assert scene.earlier[2:] == (*limited.earlier_limits, REFUSED)


def test_a_report_of_words_is_written_where_only_a_refusal_is_to_be_told(material: Compared, tmp_path: Path) -> None:
    alone = replace(material.result, earlier=(), not_compared=(REFUSED,))
    findings = tuple(
        replace(each, measurements=tuple(replace(one, earlier=()) for one in each.measurements))
        for each in alone.findings
    )
    made = replace(material, result=replace(alone, findings=findings), earlier=[])
    _, words = (read_report(path) for path in written(made, tmp_path, "sr"))
    assert REFUSED in words.limits
    assert words.sentences[0].startswith("Right lung: Volume 1700.3 mL; ")
    assert "PertinentOtherEvidenceSequence" not in dcmread(tmp_path / "sr-2.dcm")


def test_a_comparison_without_its_images_is_not_written(material: Compared, tmp_path: Path) -> None:
    with pytest.raises(EncodingError, match="images of an earlier series"):
        written(replace(material, earlier=material.earlier[:1]), tmp_path, "sr")


@pytest.mark.parametrize(
    ("now", "then", "unit", "expected"),
    [
        (2890.1, 3010.4, "mL", (-120.3, -4.0)),
        (0.3, 0.1, "cm3", (0.2, 200.0)),
        (5.0, 0.0, "mL", (5.0, None)),
        (5.0, 5.0, "mL", (0.0, 0.0)),
        (2890.1, 2890.2, "mL", (-0.1, 0.0)),
        (-790.7, -801.0, "[hnsf'U]", (10.3, None)),
        (3.25, 2.0, "%", (1.25, None)),
        (12.0, 10.0, "mm", (2.0, None)),
    ],
)
def test_a_change_is_the_difference_of_what_is_written(
    now: float, then: float, unit: str, expected: tuple[float, float | None]
) -> None:
    assert difference(now, then, unit) == expected


def test_numbers_of_then_are_rounded_as_those_of_now(material: Compared) -> None:
    series = series_of(material.earlier[0])
    exact = Measurement(codes.VOLUME, 2890.123456, codes.MILLILITRE, earlier=(EarlierValue(series, 3010.44444),))
    assert change_words(for_reading(exact)) == ", 3010.4 mL on 2023-05-11 (change -120.3 mL, -4.0 %)"
    broken = replace(exact, earlier=(EarlierValue(series, float("nan")),))
    with pytest.raises(EncodingError, match="must be a number"):
        for_reading(broken)


def _compared(document: Dataset) -> Iterator[Dataset]:
    return (item for item in descendants(document) if is_named(item, report_codes.COMPARISON))


def in_comparison(name: Code, change: Change) -> Change:
    """Return the change of the first item of a name below a comparison."""
    return lambda document: change(next(children(next(_compared(document)), name)))


def value(number: str) -> Change:
    return lambda item: setattr(item.MeasuredValueSequence[0], "NumericValue", number)


def unit(code: str) -> Change:
    return lambda item: setattr(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0], "CodeValue", code)


def in_context(name: Code, keyword: str, text: str) -> Change:
    return in_comparison(report_codes.EARLIER_VALUE, lambda item: setattr(next(children(item, name)), keyword, text))


def _without_relative(document: Dataset) -> None:
    (kept, *_) = _compared(document)
    kept.ContentSequence = [item for item in kept.ContentSequence if not is_named(item, report_codes.CHANGE)]


def _relative_of_attenuation(document: Dataset) -> None:
    comparisons = list(_compared(document))
    relative = next(children(comparisons[0], report_codes.RELATIVE_CHANGE))
    comparisons[2].ContentSequence.append(relative)


def _drop_one_image(document: Dataset) -> None:
    del document.PertinentOtherEvidenceSequence[1].ReferencedSeriesSequence[0].ReferencedSOPSequence[3]


def _list_twice(document: Dataset) -> None:
    document.PertinentOtherEvidenceSequence.append(document.PertinentOtherEvidenceSequence[0])


def _list_itself(document: Dataset) -> None:
    document.PertinentOtherEvidenceSequence[0].StudyInstanceUID = document.StudyInstanceUID


def _name_another_study(document: Dataset) -> None:
    item = next(item for item in descendants(document) if is_named(item, report_codes.COMPARED_WITH))
    next(children(item, report_codes.STUDY)).UID = "1.2.3"


MUTATIONS: dict[str, tuple[Change, str, str]] = {
    "another change": (in_comparison(report_codes.CHANGE, value("-79.9")), "Change", "not the difference"),
    "another number of then": (in_comparison(report_codes.EARLIER_VALUE, value("1780.4")), "Change", "the difference"),
    "another percentage": (in_comparison(report_codes.RELATIVE_CHANGE, value("-4.6")), "Change", "not that of"),
    "another unit": (in_comparison(report_codes.CHANGE, unit("L")), "Change", "in another unit"),
    "a percentage in mL": (in_comparison(report_codes.RELATIVE_CHANGE, unit("mL")), "Change", "of no volume"),
    "a percentage of Hounsfield units": (_relative_of_attenuation, "Change", "of no volume"),
    "no change": (_without_relative, "Change", "not one number of then"),
    "another date": (in_context(report_codes.STUDY_DATE, "Date", "20230512"), "Change", "the study and its date"),
    "another study": (in_context(report_codes.STUDY, "UID", "1.2.3"), "Reference", "none of the earlier ones"),
    "another study in words": (_name_another_study, "Reference", "none of the earlier ones"),
    "an image less": (_drop_one_image, "Reference", "not listed, each once"),
    "a study twice": (_list_twice, "Reference", "listed"),
    "itself as an earlier one": (_list_itself, "Reference", "listed as an earlier one"),
}


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_the_check_rejects(files: dict[str, Path], material: Compared, tmp_path: Path, name: str) -> None:
    change, code, words = MUTATIONS[name]
    path = changed(files["sr"], change, tmp_path)
    with disable_value_validation(), pytest.raises(EncodingError) as caught:
        checked(Form.SR, path, material.sources, [dcmread(files["seg"])], material.images)
    demand(caught.value.reasons, code, words)


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientID": "P2"},
        {"PatientBirthDate": "19700102"},
        {"StudyDate": "20260102"},
        {"StudyDate": "20270102"},
        {"StudyDate": ""},
    ],
)
def test_the_check_rejects_images_of_another_patient_or_a_later_day(
    files: dict[str, Path], material: Compared, attributes: dict[str, str]
) -> None:
    strange = [Dataset(header) for header in material.images]
    for keyword, text in attributes.items():
        setattr(strange[-1], keyword, text)
    with pytest.raises(EncodingError) as caught:
        checked(Form.SR, files["sr"], material.sources, [dcmread(files["seg"])], strange)
    demand(caught.value.reasons, "Earlier", "must not be compared with")


def test_a_report_that_compares_is_rejected_where_nobody_has_the_images(
    files: dict[str, Path], material: Compared
) -> None:
    with pytest.raises(EncodingError) as caught:
        checked(Form.SR, files["sr"], material.sources, [dcmread(files["seg"])])
    demand(caught.value.reasons, "Reference", "not listed, each once and no others")


def test_a_description_of_then_in_any_character_set_is_spelled_out(material: Compared, tmp_path: Path) -> None:
    described = {"StudyDate": SPRING, "SeriesDescription": "Köpfe\\~"}
    headers = headers_on_disk(tmp_path / "in", SHAPE, attributes=described)
    series = replace(series_of(headers), series_description="Köpfe~ 頭")
    earlier = replace(material.result, earlier=(series,), not_compared=("Größe",))
    findings = tuple(
        replace(each, measurements=tuple(replace(one, earlier=()) for one in each.measurements))
        for each in earlier.findings
    )
    made = Compared(replace(earlier, findings=findings), material.sources, [headers])
    words = read_report(written(made, tmp_path, "sr")[-1])
    assert all(text.isascii() for text in (*words.compared_with, *words.limits))
    assert "Study of 2023-05-11, series 3 (CT)" in words.compared_with[0]
