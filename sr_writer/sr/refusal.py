"""Tell the reader that a series was not analysed, and why: a Basic Text SR (PS3.3 A.35.1).

A series that a model was meant for and that has no result of it looks like one without findings. This report stands in
its place. Its items are words right below the root, which is what OHIF 3.12.10 and other viewers show of a report that
is no measurement report; the images hang below the words about the series, where they are not shown.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from highdicom.sr import ContentItem, EnhancedSR
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from sr_writer import codes
from sr_writer.context import ResultContext
from sr_writer.source.identity import demand_identity
from sr_writer.source.stand_ins import REFERENCE
from sr_writer.sr.document import Place, document
from sr_writer.sr.tree import Tree, algorithm, device, language, procedure, text
from sr_writer.sr.words import about_series, disclaimed
from sr_writer.texts import spelled_out
from study.errors import EncodingError, Reason
from study.forms import Variant
from study.imaging import ModelIdentity

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

_NOTHING_SAID = (
    "It says nothing about these images: that no finding of it is reported does not mean that there is none."
)
_OUTDATED = "Earlier results of this algorithm in this study are outdated: the study has changed since."
_WHAT_TO_DO = {
    False: (
        "Read the images as if this algorithm did not exist. To have them analysed, mend the cause where the images "
        "come from and send the series again; it is then looked at anew."
    ),
    True: (
        "Read the images as if this algorithm did not exist. The administrator of the node can find the cause and "
        "start the analysis again."
    ),
}


def write_refusal(
    reasons: Sequence[Reason],
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    variant: Variant,
    *,
    failed: bool,
    images: int | None = None,
) -> Dataset:
    """Return a report that a series was not analysed, complete and unverified, ready to be saved.

    Its UIDs derive from the reasons too: other reasons make another report.

    Parameters
    ----------
    reasons
        Why; one or more.
    sources
        Headers of images of the series, in any order; whatever else they lack, they say whose they are. Not for images
        that contradict each other in that.
    failed
        Whether the analysis was begun and failed for a technical reason, rather than refused.
    images
        How many images of the series were there when it was judged; None where nobody says.

    Raises
    ------
    MissingIdentity
        If the source lacks what a result must carry.
    EncodingError
        If there is no reason, no image that can be referred to, or a name of the model that can not be written.
    """
    if not reasons:
        raise EncodingError("A series is not analysed for no reason.")
    demand_identity(sources[0], allow_empty_patient_id=context.allow_empty_patient_id)
    of_series = _referable(sources)
    title = codes.ANALYSIS_FAILED if failed else codes.NOT_ANALYSED
    shown = sorted({0, len(of_series) // 2, len(of_series) - 1})
    tree = Tree(title, _content(reasons, of_series, shown, model, context, failed=failed, images=images), shown)
    role = _digest(reasons, failed=failed, outdates=bool(context.predecessors))
    place = Place(
        context.uid(model, f"instance:{role}", variant),
        context.uid(model, f"series:{role}", variant),
        context.series_number(variant.form),
        context.series_description(model, title.meaning, variant),
    )
    # highdicom has no Basic Text SR; its Enhanced SR has the same modules, and this tree none of what it may hold more
    made = document(EnhancedSR, tree, place, of_series, model, context)
    made.SOPClassUID = BasicTextSRStorage
    return made


def _referable(sources: Sequence[Dataset]) -> list[Dataset]:
    """Return the images of the first one's series that can be referred to."""
    first = sources[0].get("SeriesInstanceUID")
    found = [
        source
        for source in sources
        if all(source.get(keyword) for keyword in REFERENCE) and source.SeriesInstanceUID == first
    ]
    if not found:
        raise EncodingError("No image of the series can be referred to.")
    return found


def _content(
    reasons: Sequence[Reason],
    sources: Sequence[Dataset],
    shown: Sequence[int],
    model: ModelIdentity,
    context: ResultContext,
    *,
    failed: bool,
    images: int | None,
) -> list[ContentItem]:
    judged = [] if images is None else [_judged(images, context.local_time(sources[0]))]
    return [
        text(codes.SUMMARY, " ".join([*_summary(model, context, failed=failed), *judged])),
        *(text(codes.REASON, spelled_out(_in_words(reason))) for reason in reasons),
        about_series(sources[0], "", [sources[index] for index in shown]),
        text(codes.WHAT_TO_DO, _WHAT_TO_DO[failed]),
        *algorithm(model),
        procedure(sources[0]),
        *device(model),
        *language(),
    ]


def _summary(model: ModelIdentity, context: ResultContext, *, failed: bool) -> Iterator[str]:
    yield f"{(codes.ANALYSIS_FAILED if failed else codes.NOT_ANALYSED).meaning}."
    described = f" ({context.description})" if context.description else ""
    did = (
        "began to analyse this series and failed, for a technical reason." if failed else "did not analyse this series."
    )
    yield f"The algorithm {model.name}, version {model.version}{described}, {did}"
    yield _NOTHING_SAID
    if context.predecessors:
        yield _OUTDATED
    yield from disclaimed(context)


def _judged(images: int, when: datetime) -> str:
    """Return on what the judgement rests: images that come later may lift it."""
    noun = "image" if images == 1 else "images"
    return (
        f"Judged by the {images} {noun} that were here on {when:%Y-%m-%d at %H:%M}; a later report of this algorithm "
        "on this series takes the place of this one."
    )


def _in_words(reason: Reason) -> str:
    """Return a reason in its words; numbers that these do not tell follow."""
    untold = [
        f"{name.replace('_', ' ')}: {value}"
        for name, value in sorted(reason.numbers.items())
        if not _is_told(value, reason.words)
    ]
    return f"{reason.words} ({'; '.join(untold)})" if untold else reason.words


def _is_told(value: float | str, words: str) -> bool:
    """Tell whether words hold a value, be it with fewer decimals."""
    if isinstance(value, str):
        return value in words
    return any(round(value, len(number.partition(".")[2])) == float(number) for number in _NUMBER.findall(words))


def _digest(reasons: Sequence[Reason], *, failed: bool, outdates: bool) -> str:
    """Return what tells a report from those of other words."""
    said = [[reason.code, reason.words, sorted(reason.numbers.items())] for reason in reasons]
    return hashlib.sha256(json.dumps([failed, said, *([True] if outdates else [])]).encode()).hexdigest()
