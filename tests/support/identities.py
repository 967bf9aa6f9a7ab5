"""Whose images these are, in every way that hospitals write it: headers that results must carry over byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID

_LONGEST = "1.2.840." + "1" * 55
"""A root that, with one digit more, makes UIDs of 64 characters."""


def identity(character_set: str | Sequence[str], name: str, text: str, **further: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return attributes in a character set, with text at the top, in items, and in private elements.

    Parameters
    ----------
    further
        Further attributes by keyword; None where the images lack one.
    """
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID, other.TypeOfPatientID = "X-1", text, "TEXT"
    request = Dataset()
    request.RequestedProcedureID, request.AccessionNumber = "RP1", "A123"
    request.RequestedProcedureDescription = text
    request.private_block(0x0041, "RIS 2.0", create=True).add_new(0x01, "LO", "nobody's business")
    return {
        "SpecificCharacterSet": character_set,
        "PatientName": name,
        "StudyDescription": text,
        "ReferringPhysicianName": name,
        "OtherPatientIDsSequence": [other],
        "RequestAttributesSequence": [request],
    } | further


IDENTITIES: Mapping[str, Mapping[str, Any]] = {
    "Latin-1, no accession number": identity("ISO_IR 100", "Müller^Jürgen", "Größe", AccessionNumber=""),
    "Cyrillic, another time zone": identity(
        "ISO_IR 144", "Люксембург^Роза", "Грудь", TimezoneOffsetFromUTC="-0330", OtherPatientNames="Роза"
    ),
    "Japanese, UIDs of 64 characters, no study date": identity(
        ["ISO 2022 IR 6", "ISO 2022 IR 87"],
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "胸部",
        StudyDate=None,
        StudyTime=None,
        StudyInstanceUID=_LONGEST + "1",
        SeriesInstanceUID=_LONGEST + "2",
        FrameOfReferenceUID=_LONGEST + "3",
    ),
    "UTF-8, very long text": identity(
        "ISO_IR 192",
        "Wang^XiaoDong=王^小東",
        "Ωμέγα",
        PatientComments="ü" * 5120,
        AdditionalPatientHistory="y" * 10240,
        MedicalAlerts=["z" * 64] * 20,
    ),
    "GB18030, sex U, no birth date": identity(
        "GB18030", "Zhang^XiaoDong=张^小东", "胸部", PatientSex="U", PatientBirthDate=None
    ),
    "undeclared Latin-1": identity("ISO_IR 100", "Müller^Jürgen", "Größe", AccessionNumber=None, StudyID=None),
}
"""Attributes of images by what is strange about them."""

JAPANESE = "Japanese, UIDs of 64 characters, no study date"
UNDECLARED = "undeclared Latin-1"


def strange(images: Sequence[Dataset], name: str) -> Sequence[Dataset]:
    """Give images an identity of the table, but for what only the bytes of a file can say (`undeclare`)."""
    for index, image in enumerate(images):
        for keyword, value in IDENTITIES[name].items():
            if value is None:
                image.pop(keyword, None)
            else:
                setattr(image, keyword, value)
        if name == JAPANESE:
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(f"{_LONGEST[:-3]}4{index:03d}")
        image.private_block(0x0011, "ACME 1.0", create=True).add_new(0x01, "LO", "nobody's business")
    return images


def undeclare(folder: Path) -> None:
    """Take the declaration of the character set out of files."""
    for path in folder.iterdir():
        content = path.read_bytes()
        assert content.count(b"ISO_IR 100") == 1
        path.write_bytes(content.replace(b"ISO_IR 100", b"          "))
