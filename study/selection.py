"""Which series of a study fits a model? Headers and a rule in, the chosen series or the reasons against each out.

When several series fit, the one with the thinnest slices wins, then the one with the most slices, then the one with the
highest Series Number, then the greatest Series Instance UID, so that the choice never depends on the order of arrival.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from study.errors import Reason, StudyRefused
from study.geometry import FrameOfReferencePolicy, VolumeGeometry, assess
from study.headers import InstanceHeader

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True)
class SelectionRule:
    """What a model asks of a series.

    Parameters
    ----------
    modality
        Modality (0008,0060).
    sop_classes
        SOP Class UIDs that the node can read as a volume.
    image_type_exclude
        Values of Image Type (0008,0008) that no image may carry.
    fewest_slices
        Below this many slices the series is no volume for this model.
    """

    modality: str = "CT"
    sop_classes: tuple[str, ...] = (_CT_IMAGE,)
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
    refusal
        Every reason against the best of the wanted series, where none is accepted; empty where no series is wanted.
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
    refused = max(wanted, key=lambda verdict: (len(verdict.headers), verdict.series_instance_uid), default=None)
    return Selection(verdicts, None, refused)


def _judge(
    uid: str, headers: Sequence[InstanceHeader], rule: SelectionRule, policy: FrameOfReferencePolicy
) -> SeriesVerdict:
    unwanted = _reasons_not_wanted(headers, rule)
    if unwanted:
        return SeriesVerdict(uid, wanted=False, reasons=unwanted, headers=tuple(headers))
    unreadable = _reasons_unreadable(headers, rule)
    if unreadable:
        return SeriesVerdict(uid, wanted=True, reasons=unreadable, headers=tuple(headers))
    try:
        geometry = assess(headers, policy)
    except StudyRefused as refusal:
        return SeriesVerdict(uid, wanted=True, reasons=refusal.reasons, headers=tuple(headers))
    ordered = tuple(headers[index] for index in geometry.order)
    return SeriesVerdict(uid, wanted=True, reasons=(), headers=ordered, geometry=geometry)


def _reasons_not_wanted(headers: Sequence[InstanceHeader], rule: SelectionRule) -> tuple[Reason, ...]:
    modalities = {header.modality for header in headers}
    if modalities != {rule.modality}:
        listed = ", ".join(sorted(modality or "none" for modality in modalities))
        return (Reason("OtherModality", f"The modality is {listed}, the model is for {rule.modality}."),)
    excluded = {value for header in headers for value in header.image_type} & set(rule.image_type_exclude)
    if excluded:
        return (Reason("ExcludedImageType", f"The Image Type holds {', '.join(sorted(excluded))}."),)
    others = {header.sop_class_uid for header in headers} - set(rule.sop_classes)
    if others and all(header.rows is None for header in headers):
        return (Reason("NoImages", "The series holds no images."),)
    return ()


def _reasons_unreadable(headers: Sequence[InstanceHeader], rule: SelectionRule) -> tuple[Reason, ...]:
    reasons = []
    others = sorted({header.sop_class_uid for header in headers} - set(rule.sop_classes))
    if others:
        reasons.append(
            Reason(
                "UnsupportedSOPClass",
                f"The series holds images of SOP Class {', '.join(others)}, which the model can not be given.",
            )
        )
    frames = sum(header.number_of_frames for header in headers)
    if frames < rule.fewest_slices:
        reasons.append(
            Reason(
                "TooFewSlices",
                f"The series has {frames} slice(s), the model needs {rule.fewest_slices}.",
                {"slices": frames, "fewest": rule.fewest_slices},
            )
        )
    colours = {header.samples_per_pixel for header in headers} - {1}
    if colours:
        reasons.append(Reason("ColourImages", "The images are in colour or do not say Samples per Pixel."))
    return tuple(reasons)


def _preference(verdict: SeriesVerdict) -> tuple[float, int, int, str]:
    geometry = verdict.geometry
    thickness = verdict.headers[0].slice_thickness or (geometry.spacing[0] if geometry else 0.0)
    number = verdict.headers[0].series_number
    return (-thickness, len(verdict.headers), -1 if number is None else number, verdict.series_instance_uid)
