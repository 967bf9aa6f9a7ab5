"""Who a result is about: patient, study and order attributes exactly as the source images have them.

highdicom refuses many ordinary headers (code extensions, PatientSex "U", an absent PatientBirthDate), so objects are
built on stand-ins with neutral values, and then get the elements of the source. What the source lacks stays empty where
DICOM allows that (Type 2) and is an error where it does not (Type 1); nothing is made up.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from sr_writer.source.carrying import carried_item, carry, element_bytes, items_of, set_element, tag_of
from study.errors import MissingIdentity
from study.uids import is_storable_uid

TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
"""Patient and General Study Modules, Type 2: written empty where the source lacks them (PS3.3 C.7.1.1, C.7.2.1)."""

CARRIED = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "StudyInstanceUID",
    *TYPE_2,
    # Patient Module (PS3.3 C.7.1.1)
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "SourcePatientGroupIdentificationSequence",
    "GroupOfPatientsIdentificationSequence",
    "PatientBirthTime",
    "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar",
    "QualityControlSubject",
    "ReferencedPatientSequence",
    "OtherPatientIDs",
    "OtherPatientNames",
    "OtherPatientIDsSequence",
    "EthnicGroup",
    "EthnicGroupCodeSequence",
    "PatientComments",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "StrainDescription",
    "StrainNomenclature",
    "StrainStockSequence",
    "StrainAdditionalInformation",
    "StrainCodeSequence",
    "GeneticModificationsSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    # Clinical Trial Subject and Study Modules (PS3.3 C.7.1.3, C.7.2.3)
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "IssuerOfClinicalTrialProtocolID",
    "OtherClinicalTrialProtocolIDsSequence",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "IssuerOfClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "IssuerOfClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "IssuerOfClinicalTrialSubjectReadingID",
    "ClinicalTrialProtocolEthicsCommitteeName",
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
    "ClinicalTrialTimePointID",
    "IssuerOfClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
    "ClinicalTrialTimePointTypeCodeSequence",
    "LongitudinalTemporalOffsetFromEvent",
    "LongitudinalTemporalEventType",
    "ConsentForClinicalTrialUseSequence",
    # General Study Module (PS3.3 C.7.2.1)
    "StudyDescription",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianName",
    "ConsultingPhysicianIdentificationSequence",
    "PhysiciansOfRecord",
    "PhysiciansOfRecordIdentificationSequence",
    "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence",
    "RequestingService",
    "RequestingServiceCodeSequence",
    "ReferencedStudySequence",
    "ProcedureCodeSequence",
    "ReasonForPerformedProcedureCodeSequence",
    # Patient Study Module (PS3.3 C.7.2.2)
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientSizeCodeSequence",
    "PatientWeight",
    "PatientBodyMassIndex",
    "MeasuredAPDimension",
    "MeasuredLateralDimension",
    "MedicalAlerts",
    "Allergies",
    "SmokingStatus",
    "PregnancyStatus",
    "LastMenstrualDate",
    "PatientState",
    "Occupation",
    "AdditionalPatientHistory",
    "ReasonForVisit",
    "ReasonForVisitCodeSequence",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "IssuerOfServiceEpisodeIDSequence",
    "ServiceEpisodeDescription",
    "PatientSexNeutered",
)
"""What a result takes over from its source, byte for byte."""

_REQUEST_KEYWORDS = (
    "StudyInstanceUID",
    "ReferencedStudySequence",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "OrderPlacerIdentifierSequence",
    "OrderFillerIdentifierSequence",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence",
    "ReasonForTheRequestedProcedure",
    "ReasonForRequestedProcedureCodeSequence",
)
_REQUEST_TYPE_2 = (
    "ReferencedStudySequence",
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence",
)
_ORDER_NUMBERS = (
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
)


def demand_identity(source: Dataset, *, allow_empty_patient_id: bool = False) -> None:
    """Return if `source` says whose and which study it is.

    Raises
    ------
    MissingIdentity
        If the Study Instance UID (Type 1) is absent or no UID, or the Patient ID is empty where the site does not
        allow that.
    """
    study_uid = element_bytes(source, tag_of("StudyInstanceUID")).decode("ascii", "replace").rstrip(" \0")
    if not is_storable_uid(study_uid):
        raise MissingIdentity(
            "The source images have no usable Study Instance UID; mend it at the modality and send the series again."
        )
    if not allow_empty_patient_id and not _has_value(source, "PatientID"):
        raise MissingIdentity(
            "The source images have no Patient ID, so a result could end up with the wrong patient; "
            "mend it at the modality and send the series again, or, where the site has such images, set "
            "results.allow_empty_patient_id = true."
        )


def set_identity(result: Dataset, source: Dataset, *, allow_empty_patient_id: bool = False) -> None:
    """Give `result` the patient, study and order attributes of `source`, byte for byte.

    Raises
    ------
    MissingIdentity
        See `demand_identity`.
    """
    demand_identity(source, allow_empty_patient_id=allow_empty_patient_id)
    for keyword in CARRIED:
        result.pop(tag_of(keyword), None)
    for keyword in TYPE_2:
        setattr(result, keyword, "")
    carry(source, CARRIED, result)


def set_request_attributes(result: Dataset, source: Dataset) -> None:
    """Give an image object the order of its source (General Series Module, PS3.3 C.7.3.1)."""
    carry(source, ("RequestAttributesSequence",), result)


def set_referenced_request(result: Dataset, source: Dataset) -> None:
    """Give a report the requests that it fulfils (SR Document General Module, PS3.3 C.17.2).

    One item for each item of the source's Request Attributes Sequence; one made of the top level where there is none;
    no sequence at all where the source names no order.
    """
    items = items_of(source, tag_of("RequestAttributesSequence"))
    requests = [_request(source, item) for item in items] or [_request(source, Dataset())]
    named = [request for request in requests if _names_an_order(request)]
    if named:
        set_element(result, DataElement(tag_of("ReferencedRequestSequence"), "SQ", ItemSequence(named)))


def procedure_code_items(source: Dataset) -> Sequence[Dataset]:
    """Return the coded procedures that the source was made in; an item without value, scheme or meaning is no code."""
    items = [carried_item(item, _character_set(source)) for item in items_of(source, tag_of("ProcedureCodeSequence"))]
    return [item for item in items if _is_code(item)]


def _is_code(item: Dataset) -> bool:
    # A designator is repeated where a private scheme is identified, so it must fit there (VR SH)
    scheme = element_bytes(item, tag_of("CodingSchemeDesignator")).strip(b" \0")
    return (
        0 < len(scheme) <= 16 and scheme.isascii() and _has_value(item, "CodeValue") and _has_value(item, "CodeMeaning")
    )


def _request(source: Dataset, item: Dataset) -> Dataset:
    """Return one request: what `item` says, and where it says nothing, what the top level of the source says.

    An item in a character set of its own keeps it; then only what reads the same in every set is filled in.
    """
    request = Dataset()
    for keyword in _REQUEST_TYPE_2:
        empty = ItemSequence() if keyword.endswith("Sequence") else ""
        setattr(request, keyword, empty)
    own = carried_item(item, _character_set(source))
    carry(own, ("SpecificCharacterSet",), request)
    apart = "SpecificCharacterSet" in own
    for keyword in _REQUEST_KEYWORDS:
        if _has_value(own, keyword):
            carry(own, (keyword,), request)
        elif not apart or _is_plain(source, keyword):
            carry(source, (keyword,), request)
    return request


def _is_plain(source: Dataset, keyword: str) -> bool:
    """Tell whether an element reads the same in every character set; a sequence may not."""
    value = b"" if keyword.endswith("Sequence") else element_bytes(source, tag_of(keyword))
    return value.isascii() and b"\x1b" not in value


def _has_value(dataset: Dataset, keyword: str) -> bool:
    tag = tag_of(keyword)
    if keyword.endswith("Sequence"):
        return len(items_of(dataset, tag)) > 0
    return bool(element_bytes(dataset, tag).strip(b" \0"))


def _names_an_order(request: Dataset) -> bool:
    return any(_has_value(request, keyword) for keyword in _ORDER_NUMBERS)


def _character_set(source: Dataset) -> str | list[str]:
    declared = source.get("SpecificCharacterSet", "")
    return declared if isinstance(declared, str) else list(declared)
