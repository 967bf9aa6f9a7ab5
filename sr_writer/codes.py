"""The codes that result objects use, and how they are written: coded concepts, private schemes.

`study.codes` names what models measure; this module adds what only the objects themselves need, among them concepts
that pydicom's dictionary lacks.
"""

from __future__ import annotations

from collections.abc import Iterator

from highdicom.sr import CodedConcept
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as PydicomCode

from sr_writer.source.carrying import plain_text
from sr_writer.texts import long_string
from study import codes
from study.codes import LABEL_SCHEME, LABEL_SCHEME_NAME, PRIVATE_SCHEME, PRIVATE_SCHEME_NAME, Code

RESPONSIBLE_ORGANIZATION = "The Hilum project"
OWN_SCHEMES = {PRIVATE_SCHEME: PRIVATE_SCHEME_NAME, LABEL_SCHEME: LABEL_SCHEME_NAME}
"""The private schemes that we are responsible for, and their names."""

# What an object is and who made it
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
ENGLISH = Code("en", "RFC5646", "English")

# Procedures reported, by modality, where the source does not say which it was (CID 100)
CT_PROCEDURE = Code("25045-6", "LN", "CT unspecified body region")
MR_PROCEDURE = Code("25056-3", "LN", "MRI unspecified body region")
PET_PROCEDURE = Code("44136-0", "LN", "PET unspecified body region")
NM_PROCEDURE = Code("49118-3", "LN", "NM unspecified body region")
# Radiographs too: their own code (43468-8, LN) is younger than the validators in use
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")

# Names and values inside the report
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
IMAGING_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")
TRACKING_IDENTIFIER = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UNIQUE_IDENTIFIER = Code("112040", "DCM", "Tracking Unique Identifier")
PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure reported")
DEVICE_OBSERVER_UID = Code("121012", "DCM", "Device Observer UID")
FINDING = Code("121071", "DCM", "Finding")
REFERENCED_SEGMENT = Code("121191", "DCM", "Referenced Segment")
SOURCE_SERIES_FOR_SEGMENTATION = Code("121232", "DCM", "Source series for segmentation")
SUMMARY = Code("121111", "DCM", "Summary")
ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_PARAMETERS = Code("111002", "DCM", "Algorithm Parameters")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
IMAGE_REGION = Code("111030", "DCM", "Image Region")
COMMENT = Code("121106", "DCM", "Comment")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
DETECTION = Code("DETECTION", PRIVATE_SCHEME, "Detection by the algorithm")
DETECTED = Code("260373001", "SCT", "Detected")
NOT_DETECTED = Code("260415000", "SCT", "Not detected")
ASSESSED = Code("ASSESSED", PRIVATE_SCHEME, "Assessed, not decided")
MEASURED = Code("MEASURED", PRIVATE_SCHEME, "Measured by the algorithm")
SOURCE = Code("260753009", "SCT", "Source")
DERIVATION = Code("121401", "DCM", "Derivation")
ALGORITHM_RESULT = Code("ALGORITHM_RESULT", PRIVATE_SCHEME, "Result of an algorithm")
NOT_ANALYSED = Code("NOT_ANALYSED", PRIVATE_SCHEME, "NOT ANALYSED")
ANALYSIS_FAILED = Code("ANALYSIS_FAILED", PRIVATE_SCHEME, "ANALYSIS FAILED")
REASON = Code("REASON", PRIVATE_SCHEME, "Reason")
WHAT_TO_DO = Code("WHAT_TO_DO", PRIVATE_SCHEME, "What to do")
REJECTED_FOR_QUALITY = Code("113001", "DCM", "Rejected for Quality Reasons")
REJECTED_FOR_SAFETY = Code("113037", "DCM", "Rejected for Patient Safety Reasons")
KEY_OBJECT_DESCRIPTION = Code("113012", "DCM", "Key Object Description")
EXTENT = Code("EXTENT", PRIVATE_SCHEME, "Extent of the region in the images")
COMPARED_WITH = Code("COMPARED_WITH", PRIVATE_SCHEME, "Compared with an earlier study")
COMPARISON = Code("COMPARISON", PRIVATE_SCHEME, "Comparison with an earlier study")
CHANGE = Code("CHANGE", PRIVATE_SCHEME, "Change since an earlier study")
RELATIVE_CHANGE = Code("RELATIVE_CHANGE", PRIVATE_SCHEME, "Relative change since an earlier study")
EARLIER_VALUE = Code("EARLIER_VALUE", PRIVATE_SCHEME, "Value in an earlier study")
STUDY = Code("121018", "DCM", "Procedure Study Instance UID")
STUDY_DATE = Code("111060", "DCM", "Study Date")
INCOMPLETE = Code("130576", "DCM", "Anatomy coverage incomplete")

_NOT_OURS_TO_CODE = frozenset({"CodingSchemeIdentificationSequence", "PerFrameFunctionalGroupsSequence"})
"""Where no code of ours can stand; the second is long."""


def concept(code: Code) -> CodedConcept:
    """Return `code` as highdicom's coded concept.

    Raises
    ------
    EncodingError
        If one of its parts is empty, too long, or not ASCII.
    """
    return CodedConcept(long_string(code.value, 16), long_string(code.scheme, 16), long_string(code.meaning))


def plain_code(code: Code) -> PydicomCode:
    """Return `code` as the named tuple that highdicom compares with."""
    return PydicomCode(code.value, code.scheme, code.meaning)


def code_item(code: Code) -> Dataset:
    """Return `code` as an item of a Code Sequence (PS3.3 8.8)."""
    item = Dataset()
    item.update(concept(code))
    return item


def identify_private_schemes(dataset: Dataset) -> None:
    """Make `dataset` say what the private schemes of its codes are, if it has any (PS3.3 C.12.1.1.7).

    No private scheme has a UID that is known here, and none is invented. Ours are identified by designator, name and
    organisation, those that a site or a model brings by their designator, which is all that is known of them.
    """
    schemes = sorted({scheme_of(item) for item in coded_items(dataset)})
    described = [_scheme(scheme) for scheme in schemes if is_private(scheme)]
    if described:
        dataset.CodingSchemeIdentificationSequence = described


def _scheme(designator: str) -> Dataset:
    item = Dataset()
    item.CodingSchemeDesignator = designator
    item.CodingSchemeName = OWN_SCHEMES.get(designator, designator)
    if designator in OWN_SCHEMES:
        item.CodingSchemeResponsibleOrganization = RESPONSIBLE_ORGANIZATION
    return item


def is_private(designator: str) -> bool:
    """Tell whether a Coding Scheme Designator is of the kind that anybody may make up (PS3.3 8.2)."""
    return designator.startswith("99")


def scheme_of(item: Dataset) -> str:
    """Return the Coding Scheme Designator of a coded item; "" where it has none."""
    return plain_text(item, "CodingSchemeDesignator")


def coded_items(dataset: Dataset) -> Iterator[Dataset]:
    """Yield every item below `dataset` that is a coded concept of ours; nothing but sequences is decoded on the way."""
    for tag in list(dataset.keys()):
        if dataset.get_item(tag).VR != "SQ" or keyword_for_tag(tag) in _NOT_OURS_TO_CODE:
            continue
        for item in dataset[tag].value:
            if "CodeValue" in item and "CodingSchemeDesignator" in item:
                yield item
            yield from coded_items(item)


def own_codes() -> dict[tuple[str, str], str]:
    """Return the meaning of every code of `study.codes` and of this module, by value and scheme."""
    named = [value for module in (vars(codes), globals()) for value in list(module.values())]
    return {(code.value, code.scheme): code.meaning for code in named if isinstance(code, Code)}
