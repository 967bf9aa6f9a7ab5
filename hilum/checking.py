"""``hilum check``: hold result objects against their source images, as the node does before it sends them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from hilum.presenting import reason_json
from hilum.sources import FolderSources, Sources
from hilum.terminal import say
from sr_writer.checking.objects import (
    beside_of,
    checked,
    description_of,
    form_of,
    is_ours,
    segmentations_needed,
    together_reasons,
)
from sr_writer.checking.rejection import rejected_by
from sr_writer.checking.texts import undecodable
from sr_writer.files import TRANSFER_SYNTAXES
from study.errors import EncodingError, HilumError, Reason
from study.forms import SEGMENTATIONS, Form

_MOST_NAMED = 10


@dataclass(eq=False)
class Verdict:
    """What the check says of one file.

    Parameters
    ----------
    words
        What the file holds; "" where that can not be said.
    reasons
        Every rule that is broken, or why nothing could be checked; none where all is well.
    notes
        What is no fault of the object and yet good to know.
    compared
        Whether it was compared with what the node made, too.
    """

    path: Path
    words: str = ""
    form: Form | None = None
    dataset: Dataset | None = None
    reasons: list[Reason] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    compared: bool = False

    @property
    def can_be_checked(self) -> bool:
        """Tell whether the file holds an object that can be held against source images."""
        return self.form is not None and not self.reasons


def run_check(paths: Sequence[Path], source: Path | None, store: Callable[[], Sources], *, as_json: bool) -> int:
    """Print what is wrong with each file; return the exit status, 1 where a file has a fault or can not be checked.

    Parameters
    ----------
    paths
        Files, and folders, of which those that hold no result of Hilum's are passed over.
    source
        Folder of the source images; None for the node's own store.
    store
        Gives the node's store; asked only where it is needed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values, and may be a patient's
        verdicts, others = examine(paths, _Once(store) if source is None else FolderSources(source))
    if as_json:
        say(json.dumps([_json(verdict) for verdict in verdicts], indent=1))
    else:
        for verdict in verdicts:
            for line in _lines(verdict):
                say(line)
        if any(verdict.can_be_checked and not verdict.compared for verdict in verdicts):
            say(_NOT_COMPARED)
        if others:
            say(f"{others} other files in the folders hold no result of Hilum's")
        if not verdicts:
            say("there is nothing to check")
    return 0 if verdicts and not any(verdict.reasons for verdict in verdicts) else 1


def examine(paths: Sequence[Path], sources: Sources) -> tuple[list[Verdict], int]:
    """Return a verdict on each file, and how many files of folders were passed over."""
    verdicts = [_read(path) for path in paths if not path.is_dir()]
    found = [_read(path) for folder in paths if folder.is_dir() for path in sorted(folder.rglob("*")) if path.is_file()]
    verdicts += [verdict for verdict in found if verdict.dataset is not None and is_ours(verdict.dataset)]
    others = len(found) + sum(not path.is_dir() for path in paths) - len(verdicts)
    sound = sorted((verdict for verdict in verdicts if verdict.can_be_checked), key=_after_segmentations)
    objects = _each_once(sound)
    datasets = [verdict.dataset for verdict in objects if verdict.dataset is not None]
    for verdict in sound:
        _check(verdict, sources, datasets)
    for index, reason in together_reasons(datasets):
        objects[index].reasons.append(reason)
    return verdicts, others


def _read(path: Path) -> Verdict:
    """Return what a file is, before anything is asked of it."""
    try:
        dataset = dcmread(path)
        form = form_of(dataset)
    except InvalidDicomError:
        return _unusable(path, "NotDicom", "It is no DICOM file.")
    except Exception as error:  # noqa: BLE001 - a damaged file may make the reader raise anything
        words = f"It can not be read ({type(error).__name__}): the file is damaged, or no DICOM file."
        return _unusable(path, "File", words)
    if form is None or not is_ours(dataset):
        words = (
            f"It is no result of Hilum's ({dataset.get('Modality') or 'no modality'}, SOP Class "
            f"{_class_name(dataset)}), and hilum check knows the rules of those alone; for other objects use a general "
            "validator such as dciodvfy."
        )
        return Verdict(path, dataset=dataset, reasons=[Reason("Foreign", words)])
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax not in TRANSFER_SYNTAXES:
        words = (
            f"It is in {syntax.name if syntax else 'no transfer syntax'}, into which it was converted after it left "
            "Hilum; check the file in the node's results folder, or retrieve it in Explicit VR Little Endian."
        )
        return Verdict(path, dataset=dataset, reasons=[Reason("TransferSyntax", words)])
    return Verdict(path, description_of(form, dataset), form, dataset)


def _unusable(path: Path, code: str, words: str) -> Verdict:
    return Verdict(path, reasons=[Reason(code, words)])


def _class_name(dataset: Dataset) -> str:
    uid = dataset.get("SOPClassUID")
    return uid.name if uid else "unknown"


def _after_segmentations(verdict: Verdict) -> bool:
    return verdict.form not in SEGMENTATIONS


def _each_once(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts on different objects; a copy is noted, other content under the same UID is wrong."""
    seen: dict[str, Verdict] = {}
    for verdict in verdicts:
        uid = str(verdict.dataset.get("SOPInstanceUID", "")) if verdict.dataset else ""
        first = seen.setdefault(uid, verdict)
        if first is verdict:
            continue
        if _content(first.path) == _content(verdict.path):
            verdict.notes.append(f"It is the object of {first.path} again.")
        else:
            words = f"It has the SOP Instance UID of {first.path}, and other content."
            verdict.reasons.append(Reason("UID", words))
    return list(seen.values())


def _content(path: Path) -> str:
    """Return the digest of the data set in a file, whatever its file meta information says."""
    content = path.read_bytes()
    meta = 144 + int.from_bytes(content[140:144], "little")
    return hashlib.sha256(content[meta:]).hexdigest()


def _check(verdict: Verdict, sources: Sources, others: Sequence[Dataset]) -> None:
    if verdict.dataset is None or verdict.form is None:
        return
    if verdict.form is Form.REJECTION:
        needed, beside = set(rejected_by(verdict.dataset)), [*others, *_made(rejected_by(verdict.dataset), sources)]
    else:
        needed, beside = segmentations_needed(verdict.dataset), beside_of(verdict.dataset, others)
    lacking = needed - {str(other.SOPInstanceUID) for other in beside}
    if lacking:
        words = f"It refers to {len(lacking)} result object(s) that are not among the files; give those too."
        verdict.reasons.append(Reason("Reference", words))
        return
    try:
        headers = sources.of(verdict.dataset, verdict.form)
        checked(verdict.form, verdict.path, headers, beside, sources.earlier(verdict.dataset))
    except EncodingError as error:
        verdict.reasons += error.reasons or (Reason("File", error.words),)
    except HilumError as error:
        words = f"It could not be checked, because its source images are not at hand: {error.words.rstrip('.')}."
        verdict.reasons.append(
            Reason("Source", f"{words} --source DIR names the folder of the images that it was made of.")
        )
    else:
        verdict.notes += _notes(dcmread(verdict.path, stop_before_pixels=True))
        _compare(verdict, sources.made(verdict.dataset))


_NOT_COMPARED = (
    "Held against source images alone: labels, numbers, contours and pixels are not computed again. The node that made "
    "an object compares it, without --source, with what it made."
)


def _made(sop_instance_uids: Sequence[str], sources: Sources) -> Iterator[Dataset]:
    """Yield the headers of those results that the node made and kept; what is wrong with its store is told after."""
    with contextlib.suppress(HilumError):
        for uid in sop_instance_uids:
            named = Dataset()
            named.SOPInstanceUID = uid
            path = sources.made(named)
            if path is not None:
                yield dcmread(path, stop_before_pixels=True)


def _compare(verdict: Verdict, made: Path | None) -> None:
    """Hold an object against the one that the node made under the same SOP Instance UID, element by element."""
    verdict.compared = made is not None
    if made is None:
        return
    if made.samefile(verdict.path) or _content(made) == _content(verdict.path):
        return
    found, own = dcmread(verdict.path), dcmread(made)
    same_syntax = found.file_meta.TransferSyntaxUID == own.file_meta.TransferSyntaxUID
    changed = [
        keyword_for_tag(element.tag) or str(element.tag)
        for element in own
        if element.tag.element and (same_syntax or element.keyword != "PixelData") and found.get(element.tag) != element
    ]
    if changed:
        words = f"It is not as the node made it: {', '.join(changed[:_MOST_NAMED])} differ{'s' * (len(changed) == 1)}."
        verdict.reasons.append(Reason("Copy", words))


def _notes(dataset: Dataset) -> Iterator[str]:
    unread = undecodable(dataset)
    if unread:
        yield (
            f"{', '.join(unread)} can not be decoded in the declared character set; the bytes are those of the source "
            "images, which declare it so."
        )


class _Once:
    """The node's store, opened when a file asks for it; what is wrong with it is told for each file."""

    def __init__(self, store: Callable[[], Sources]) -> None:
        self._store = store
        self._opened: Sources | None = None

    def of(self, result: Dataset, form: Form) -> list[Dataset]:
        if self._opened is None:
            self._opened = self._store()
        return self._opened.of(result, form)

    def earlier(self, result: Dataset) -> list[Dataset]:
        return [] if self._opened is None else self._opened.earlier(result)

    def made(self, result: Dataset) -> Path | None:
        if self._opened is None:
            self._opened = self._store()
        return self._opened.made(result)


def _lines(verdict: Verdict) -> Iterator[str]:
    if not verdict.reasons:
        yield f"ok   {verdict.path}: {verdict.words}"
    for reason in verdict.reasons:
        yield f"FAIL {verdict.path}: {reason.code}: {reason.words}"
    for note in verdict.notes:
        yield f"note {verdict.path}: {note}"


def _json(verdict: Verdict) -> dict[str, object]:
    return {
        "file": str(verdict.path),
        "ok": not verdict.reasons,
        "compared": verdict.compared,
        "form": verdict.form.value if verdict.form else None,
        "words": verdict.words,
        "reasons": [reason_json(reason) for reason in verdict.reasons],
        "notes": verdict.notes,
    }
