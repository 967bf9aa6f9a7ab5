from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pypdf import PdfReader

from sr_writer.checking.pdf import pdf_reasons
from sr_writer.material import Material
from sr_writer.picture.encapsulated_pdf import write_pdf
from sr_writer.picture.identity_text import certain_text, decoded, names_of
from sr_writer.picture.typefaces import NOT_PRINTABLE, typeset
from sr_writer.results import write_results
from study import codes
from study.forms import Form, Variant
from study.imaging import Finding, ResultSet, Segment
from tests.support.results import (
    CONTEXT,
    MODEL,
    assessments,
    headers_on_disk,
    lungs,
    numbers,
    radiograph,
    result_of,
)

SHAPE = (10, 40, 60)
PDF = Variant(Form.PDF)


def pixels(_: int) -> NDArray[np.float32]:
    return np.zeros(SHAPE[1:], dtype=np.float32)


def written(sources: list[Dataset], result: ResultSet | None = None) -> Dataset:
    return write_pdf(Material(result or result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, pixels), PDF)


def words_of(document: Dataset) -> list[str]:
    """Return the text of each page, in one line."""
    reader = PdfReader(BytesIO(document.EncapsulatedDocument[: document.EncapsulatedDocumentLength]))
    return [" ".join(page.extract_text().split()) for page in reader.pages]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    attributes = {"PatientName": "Müller^Jürgen", "AccessionNumber": "A77", "StudyDescription": "Thorax nativ"}
    return headers_on_disk(tmp_path_factory.mktemp("in"), SHAPE, attributes=attributes)


def test_the_page_says_whose_it_is_what_was_found_and_by_whom(sources: list[Dataset]) -> None:
    (page,) = words_of(written(sources))
    for words in (
        "Müller, Jürgen",
        "P1",
        "1970-01-01",
        "Sex O",
        "2026-01-02",
        "A77",
        "Thorax nativ",
        "Right lung Volume: 1700.3 mL",
        "Attenuation Coefficient, mean: -812.5 HU",
        "Left lung Incomplete",
        "Volume left out: the lung is not whole in the images.",
        "Both lungs",
        "3 results.",
        "Limits of use",
        "The images came from a phantom.",
        "NOT FOR DIAGNOSTIC USE",
        "lung_ct 1.2.0",
        "ab" * 32,
        "Hilum 0.1.0",
        "coronal",
        "sagittal",
        "page 1 of 1",
    ):
        assert words in page, words


@pytest.mark.parametrize("number", ["", None])
def test_a_series_without_a_number_has_none_on_the_page(tmp_path: Path, number: str | None) -> None:
    images = headers_on_disk(tmp_path, SHAPE, attributes={"SeriesNumber": number, "SeriesDescription": "Thin"})
    (page,) = words_of(written(images))
    assert "CT, Thin" in page
    assert "series" not in page


def test_the_page_has_three_pictures(sources: list[Dataset]) -> None:
    document = written(sources)
    reader = PdfReader(BytesIO(document.EncapsulatedDocument))
    images = [image.image for image in reader.pages[0].images]
    assert len(images) == 3
    for image in images:
        assert image is not None
        colours = np.asarray(image.convert("RGB")).astype(int)
        assert (colours[..., 0] - colours[..., 2] > 60).any()  # the right lung is orange


def test_nothing_detected_reads_plainly(sources: list[Dataset]) -> None:
    result = result_of(np.zeros(SHAPE, dtype=np.uint8))
    missing = tuple(replace(each, detected=False, measurements=()) for each in result.findings)
    (page,) = words_of(written(sources, replace(result, findings=missing)))
    assert "Nothing was detected of what the model looks for." in page
    assert page.count("Not detected") == 3


def test_what_is_said_of_a_radiograph(tmp_path: Path) -> None:
    images = radiograph(tmp_path, "DX")
    result = ResultSet(None, (), assessments=tuple(replace(each, slices=()) for each in assessments()))
    (page,) = words_of(written(images, result))
    assert "Pneumothorax Not detected probability: 7 %" in page
    assert "3 results; 1 not detected." in page


def test_a_hundred_findings_flow_over_pages_that_all_say_whose_they_are(sources: list[Dataset]) -> None:
    values = np.zeros(SHAPE, dtype=np.uint8)
    segments = []
    for value in range(1, 101):
        values[1 + value % 8, 4 + value // 10 * 3, 5 + value % 10 * 5 : 8 + value % 10 * 5] = value
        segments.append(Segment(value, f"Part {value}", codes.ANATOMICAL_STRUCTURE, codes.TISSUE))
    findings = tuple(
        Finding(f"f{each.value}", each.label, codes.TISSUE, codes.TISSUE, (each.value,), numbers(each.value))
        for each in segments
    )
    result = replace(result_of(values, segments=segments), findings=findings)
    pages = words_of(written(sources, result))
    assert len(pages) > 1
    for number, page in enumerate(pages, 1):
        assert "Müller, Jürgen, P1" in page
        assert f"page {number} of {len(pages)}" in page
    assert all(f"Part {value} " in " ".join(pages) for value in range(1, 101))


def test_a_table_that_fits_in_small_letters_is_one_page(sources: list[Dataset]) -> None:
    result = result_of(lungs(SHAPE))
    many = tuple(replace(result.findings[0], key=f"k{index}", label=f"Finding {index}") for index in range(16))
    assert len(words_of(written(sources, replace(result, findings=many)))) == 1


@pytest.mark.parametrize(
    ("character_set", "name", "read"),
    [
        ("ISO_IR 100", "Müller^Jürgen".encode("latin_1"), ["Müller, Jürgen"]),
        ("ISO_IR 101", "Łukasz^Żółć".encode("iso8859_2"), ["Łukasz, Żółć"]),
        ("ISO_IR 144", "Люксембург^Роза".encode("iso8859_5"), ["Люксембург, Роза"]),
        ("ISO_IR 126", "Διονυσιος".encode("iso8859_7"), ["Διονυσιος"]),
        ("ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), ["Wang, XiaoDong", "王 小東"]),
        ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), ["Wang, XiaoDong", "王 小东"]),
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            ["Yamada, Tarou", "山田 太郎", "やまだ たろう"],
        ),
        ("\\ISO 2022 IR 87", b"Hatsu^X=\x1b$B=i\x1b(B", ["Hatsu, X", "初"]),  # the bytes of the sign hold a "="
        (
            "ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
            ["ﾔﾏﾀﾞ ﾀﾛｳ", "山田 太郎"],
        ),
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            ["Hong, Gildong", "洪 吉洞", "홍 길동"],
        ),
    ],
)
def test_names_read_right(tmp_path: Path, character_set: str, name: bytes, read: list[str]) -> None:
    sources = headers_on_disk(tmp_path, SHAPE)
    for source in sources:
        source.SpecificCharacterSet = character_set.split("\\")
        put(source, "PatientName", name)
    assert names_of(sources[0], "PatientName") == read
    (page,) = words_of(written(sources))
    shown = [NOT_PRINTABLE if "길동" in writing else writing for writing in read]  # there is no Hangul
    assert " / ".join(shown) in page


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen".encode()),  # UTF-8 that is declared as Latin-1
        ("", "Müller^Jürgen".encode("latin_1")),
        ("ISO_IR 192", "Müller^Jürgen".encode("latin_1")),
        ("ISO_IR 100", b"M\x9fller"),
        ("\\ISO 2022 IR 87", b"\x1b$B\xff\xff"),
        ("\\ISO 2022 IR 87", b"A\x1b%9B"),
        ("ISO_IR 127", "قباني".encode("iso8859_6")),  # sound, but nothing here sets it from right to left
        ("ISO_IR 192", "שרון^דבורה".encode()),
    ],
)
def test_names_that_can_not_be_shown_are_said_to_be(tmp_path: Path, character_set: str, name: bytes) -> None:
    sources = headers_on_disk(tmp_path, SHAPE)
    for source in sources:
        source.SpecificCharacterSet = character_set.split("\\")
        put(source, "PatientName", name)
    (page,) = words_of(written(sources))
    assert f"Patient {NOT_PRINTABLE}" in page
    assert "Patient ID P1" in page


def test_a_readable_writing_is_shown_beside_one_that_is_not(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path, SHAPE)
    for source in sources:
        source.SpecificCharacterSet = "ISO_IR 192"
        put(source, "PatientName", b"Wang^XiaoDong=\xff\xfe")
    assert names_of(sources[0], "PatientName") == ["Wang, XiaoDong", None]
    (page,) = words_of(written(sources))
    assert f"Wang, XiaoDong / {NOT_PRINTABLE}" in page


def put(source: Dataset, keyword: str, value: bytes) -> None:
    from pydicom.datadict import dictionary_VR
    from pydicom.dataelem import RawDataElement

    from sr_writer.source.carrying import set_element, tag_of

    tag = tag_of(keyword)
    set_element(source, RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True))


def test_absent_and_empty_are_not_stated(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path, SHAPE, attributes={"PatientBirthDate": None, "AccessionNumber": ""})
    assert certain_text(sources[0], "PatientBirthDate") == certain_text(sources[0], "AccessionNumber") == ""
    (page,) = words_of(written(sources))
    assert page.count("not stated") == 2


def test_markup_in_a_header_is_text(tmp_path: Path) -> None:
    sources = headers_on_disk(tmp_path, SHAPE, attributes={"StudyDescription": "<b>Thorax & co"})
    assert "<b>Thorax & co" in words_of(written(sources))[0]


def test_half_a_name_is_not_set() -> None:
    assert NOT_PRINTABLE in typeset("Anna שרון")
    assert NOT_PRINTABLE not in typeset("Anna Müller")
    assert decoded(b"", [""]) == ""
    assert decoded("Müller".encode("latin_1"), ["ISO_IR 999"]) is None


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, sources: list[Dataset]) -> None:
    one, other = (
        write_results(result_of(lungs(SHAPE)), sources, MODEL, CONTEXT, tmp_path / name, [PDF], pixels=pixels)
        for name in "ab"
    )
    assert one == other
    assert [each.form for each in one] == ["pdf"]


def _setting(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda document: setattr(document, keyword, value)


def _shorter(document: Dataset) -> None:
    document.EncapsulatedDocument = document.EncapsulatedDocument[:-40]


def _cut(document: Dataset) -> None:
    document.EncapsulatedDocument = document.EncapsulatedDocument[:1000]
    document.EncapsulatedDocumentLength = 1000


def _no_pdf(document: Dataset) -> None:
    document.EncapsulatedDocument = b"P" + document.EncapsulatedDocument[1:]


def _one_lost(document: Dataset) -> None:
    document.SourceInstanceSequence = document.SourceInstanceSequence[1:]


def _one_twice(document: Dataset) -> None:
    document.SourceInstanceSequence = [*document.SourceInstanceSequence, document.SourceInstanceSequence[0]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_shorter, "EncapsulatedDocumentLength"),
        (_cut, "no whole PDF"),
        (_no_pdf, "no whole PDF"),
        (_one_lost, "not each named once"),
        (_one_twice, "not each named once"),
        (_setting("SOPClassUID", "1.2.840.10008.5.1.4.1.1.104.2"), "SOPClassUID"),
        (_setting("Modality", "OT"), "Modality"),
        (_setting("ConversionType", "DV"), "ConversionType"),
        (_setting("BurnedInAnnotation", "NO"), "BurnedInAnnotation"),
        (_setting("MIMETypeOfEncapsulatedDocument", "text/xml"), "MIMETypeOfEncapsulatedDocument"),
        (_setting("InstanceNumber", 2), "InstanceNumber"),
        (_setting("VerificationFlag", "VERIFIED"), "VerificationFlag"),
        (_setting("DocumentTitle", ""), "DocumentTitle"),
        (_setting("ConceptNameCodeSequence", []), "not coded"),
        (_setting("PatientName", "Other"), "PatientName"),
        (_setting("DeviceUID", "2.25.5"), "DeviceUID"),
    ],
)
def test_the_check_rejects(sources: list[Dataset], change: Callable[[Dataset], None], words: str) -> None:
    document = written(sources)
    assert [reason.words for reason in pdf_reasons(document, sources)] == []
    change(document)
    assert words in " ".join(reason.words for reason in pdf_reasons(document, sources))
