"""Which series of a study fits a model? Headers and a rule in, the chosen series or the reasons against each out.

When several series fit, one of original images wins over one derived from others, then the one with the thinnest
slices, then the one with the most slices, then the one with the highest Series Number, then the greatest Series
Instance UID, so that the choice never depends on the order of arrival.

A series may hold odd objects beside its slices, a localizer for instance. They are left out, and the geometry's notes
say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydicom.config import IGNORE
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
)

from study.errors import Reason, StudyRefused
from study.geometry import FrameOfReferencePolicy, VolumeGeometry, assess
from study.headers import InstanceHeader

_MULTI_FRAME_CLASSES = (
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
)
"""The same scans in another form: the model's kind of series, refused where the model can not read it."""

_LOWEST_NUMBER = -(2**31)  # of a Series Number, an IS (PS3.5 6.2)


@dataclass(frozen=True)
class SelectionRule:
    """What a model asks of a series.

    Parameters
    ----------
    modality
        Modality (0008,0060).
    sop_classes
        SOP Class UIDs that the node can read as a volume. Multi-frame forms of a scan that are not among them are
        refused; any other object is simply not wanted.
    image_type_exclude
        Values of Image Type (0008,0008) of images that are no slices; they are left out of their series.
    fewest_slices
        Below this many slices the series is no volume for this model.
    """

    modality: str = "CT"
    sop_classes: tuple[str, ...] = (str(CTImageStorage),)
    image_type_exclude: tuple[str, ...] = ("LOCALIZER", "SCREEN SAVE")
    fewest_slices: int = 2


@dataclass(frozen=True, eq=False)
class SeriesVerdict:
    """What a rule says of one series.

    Parameters
    ----------
    wanted
        Whether the model is meant for such a series at all; False is no refusal, the series is simply not its kind.
    reasons
        Why it is not wanted, or can not be analysed; empty where it is accepted.
    headers
        The instances that the verdict is about, in slice order where the series is accepted; without those that are
        left out.
    geometry
        The grid of `headers`, where the series is accepted.
    """

    series_instance_uid: str
    wanted: bool
    reasons: tuple[Reason, ...]
    headers: tuple[InstanceHeader, ...] = ()
    geometry: VolumeGeometry | None = None

    @property
    def accepted(self) -> bool:
        """Tell whether the model may run on the series."""
        return self.wanted and not self.reasons


@dataclass(frozen=True, eq=False)
class Selection:
    """What a rule says of a study: a verdict per series, and the series that was chosen, if any.

    Parameters
    ----------
    verdicts
        By Series Instance UID.
    refused
        The wanted series that came nearest, where none is accepted; None where one is, or none is wanted.
    """

    verdicts: tuple[SeriesVerdict, ...]
    chosen: SeriesVerdict | None
    refused: SeriesVerdict | None

    @property
    def refusal(self) -> tuple[Reason, ...]:
        """Return why no wanted series can be analysed."""
        return self.refused.reasons if self.refused else ()


def select(
    series: Mapping[str, Sequence[InstanceHeader]], rule: SelectionRule, policy: FrameOfReferencePolicy
) -> Selection:
    """Choose the series of a study that the model runs on.

    Parameters
    ----------
    series
        The current headers of each series, by Series Instance UID.
    """
    verdicts = tuple(_judge(uid, headers, rule, policy) for uid, headers in sorted(series.items()))
    accepted = [verdict for verdict in verdicts if verdict.accepted]
    if accepted:
        return Selection(verdicts, max(accepted, key=_preference), None)
    wanted = [verdict for verdict in verdicts if verdict.wanted]
    return Selection(verdicts, None, max(wanted, key=_nearness, default=None))


def _judge(
    uid: str, headers: Sequence[InstanceHeader], rule: SelectionRule, policy: FrameOfReferencePolicy
) -> SeriesVerdict:
    objections = [_reason_not_wanted(header, rule) for header in headers]
    wanted = tuple(header for header, objection in zip(headers, objections, strict=True) if objection is None)
    others = Counter(objection for objection in objections if objection is not None)
    if not wanted:
        return SeriesVerdict(uid, wanted=False, reasons=_not_wanted(others, rule), headers=tuple(headers))
    unreadable = _reasons_unreadable(wanted, rule)
    if unreadable:
        return SeriesVerdict(uid, wanted=True, reasons=unreadable, headers=wanted)
    try:
        geometry = assess(wanted, policy)
    except StudyRefused as refusal:
        return SeriesVerdict(uid, wanted=True, reasons=refusal.reasons, headers=wanted)
    ordered = tuple(wanted[index] for index in geometry.order)
    notes = (*geometry.notes, *_left_out(others, len(headers)))
    geometry = replace(geometry, order=tuple(range(len(ordered))), notes=notes)
    return SeriesVerdict(uid, wanted=True, reasons=(), headers=ordered, geometry=geometry)


@dataclass(frozen=True)
class _Objection:
    """Why an instance is nothing that the model could be given: a code, and the value that says so."""

    code: str
    value: str


def _reason_not_wanted(header: InstanceHeader, rule: SelectionRule) -> _Objection | None:
    if header.modality != rule.modality:
        return _Objection("OtherModality", header.modality or "none")
    excluded = {value.upper() for value in header.image_type} & {value.upper() for value in rule.image_type_exclude}
    if excluded:
        return _Objection("ExcludedImageType", ", ".join(sorted(excluded)))
    if header.sop_class_uid not in {*rule.sop_classes, *_MULTI_FRAME_CLASSES}:
        return _Objection("OtherSOPClass", _sop_class_name(header.sop_class_uid))
    return None


def _not_wanted(objections: Counter[_Objection], rule: SelectionRule) -> tuple[Reason, ...]:
    if not objections:
        return (Reason("NoImages", "The series holds no images."),)
    words = {
        "OtherModality": f"The modality is {{}}, the model is for {rule.modality}.",
        "ExcludedImageType": "The Image Type holds {}, which the model leaves out.",
        "OtherSOPClass": "The series holds objects of another kind than the model reads: {}.",
    }
    values: dict[str, list[str]] = {}
    for objection in sorted(objections, key=lambda objection: objection.value):
        values.setdefault(objection.code, []).append(objection.value)
    return tuple(Reason(code, words[code].format(", ".join(values[code]))) for code in words if code in values)


def _left_out(objections: Counter[_Objection], images: int) -> tuple[str, ...]:
    return tuple(
        f"{count} of {images} objects of the series were left out ({ascii(objection.value)[1:-1]})."
        for objection, count in sorted(objections.items(), key=lambda item: (item[0].code, item[0].value))
    )


def _sop_class_name(uid: str) -> str:
    # The UID came from the wire: looked up as it is, without pydicom's own judgement (and warning) of it.
    return UID(uid, validation_mode=IGNORE).name


def _reasons_unreadable(headers: Sequence[InstanceHeader], rule: SelectionRule) -> tuple[Reason, ...]:
    others = sorted({header.sop_class_uid for header in headers} - set(rule.sop_classes))
    if others:
        frames = sum(header.number_of_frames for header in headers)
        words = (
            f"The images are multi-frame ({', '.join(map(_sop_class_name, others))}, {frames} frames), which the "
            "model can not be given yet. Send the series as single-frame images."
        )
        return (Reason("UnsupportedSOPClass", words, {"sop_classes": len(others), "frames": frames}),)
    reasons = []
    several = sum(header.number_of_frames > 1 for header in headers)
    if several:
        words = f"{several} image(s) claim several frames, which {_sop_class_name(rule.sop_classes[0])} has not."
        reasons.append(Reason("MultiFrameImages", words, {"images": several}))
    if len(headers) < rule.fewest_slices:
        reasons.append(
            Reason(
                "TooFewSlices",
                f"The series has {len(headers)} slice(s), the model needs {rule.fewest_slices}.",
                {"slices": len(headers), "fewest": rule.fewest_slices},
            )
        )
    colours = sum(header.samples_per_pixel != 1 for header in headers)
    if colours:
        words = f"{colours} of {len(headers)} images are in colour or do not say Samples per Pixel."
        reasons.append(Reason("ColourImages", words, {"images": colours}))
    return tuple(reasons)


def _preference(verdict: SeriesVerdict) -> tuple[bool, float, int, int, str]:
    first, geometry = verdict.headers[0], verdict.geometry
    spacing = geometry.spacing[0] if geometry else 0.0
    thickness = first.slice_thickness if (first.slice_thickness or 0.0) > 0 else None
    number = first.series_number
    return (
        "ORIGINAL" in first.image_type[:1],
        -(spacing if thickness is None else thickness),
        len(verdict.headers),
        _LOWEST_NUMBER if number is None else number,
        verdict.series_instance_uid,
    )


def _nearness(verdict: SeriesVerdict) -> tuple[bool, int, str]:
    """Order refused series by how near they came: those that were read as slices first, then the largest."""
    frames = sum(header.number_of_frames for header in verdict.headers)
    readable = not any(reason.code in {"UnsupportedSOPClass", "ColourImages"} for reason in verdict.reasons)
    return (readable, frames, verdict.series_instance_uid)
