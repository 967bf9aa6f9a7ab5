"""A study as a command is given it: a folder of DICOM files, or what stands for a study of the node's database."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from db.images.index import StudySnapshot, snapshot
from hilum.config import Settings
from hilum.options import database_of, study_uid
from study.errors import ArchiveError
from study.headers import HEADER_KEYWORDS, InstanceHeader

# What pydicom raises over bytes that are no data set; deep nesting ends in RecursionError.
_PARSE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, OverflowError, EOFError,
                 OSError, RecursionError, struct.error)  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """The studies in a folder, and what of its files is none.

    Parameters
    ----------
    studies
        The headers of each series by its UID, by Study Instance UID.
    not_dicom
        How many files are no DICOM files.
    copies
        How many files hold an instance that another file holds already.
    left_out
        DICOM files that the node could not index, and why.
    paths
        Of each instance, by its Study and its SOP Instance UID.
    """

    studies: dict[str, dict[str, list[InstanceHeader]]] = field(default_factory=dict)
    not_dicom: int = 0
    copies: int = 0
    left_out: tuple[tuple[Path, str], ...] = ()
    paths: dict[tuple[str, str], Path] = field(default_factory=dict)


def study_of_node(settings: Settings, text: str) -> StudySnapshot:
    """Return a study of the node's database as it is now.

    Raises
    ------
    ArchiveError
        If nothing there is meant by `text`.
    """
    try:
        with closing(database_of(settings)) as database:
            uid = study_uid(database, text)
            with database.reading() as uow:
                return snapshot(uow, uid)
    except ArchiveError as error:
        raise ArchiveError(f"{text} is no folder, and no study of the node: {error.words}") from None


def read_folder(folder: Path) -> Folder:
    """Return the studies in a folder and all below it; pixel data are not read."""
    studies: dict[str, dict[str, list[InstanceHeader]]] = {}
    paths: dict[tuple[str, str], Path] = {}
    left_out: list[tuple[Path, str]] = []
    not_dicom = copies = 0
    for path in _files(folder):
        try:
            header = _header(path)
        except InvalidDicomError:
            not_dicom += 1
        except _PARSE_ERRORS as error:
            words = str(error) if str(error).endswith("is absent or empty") else type(error).__name__
            left_out.append((path, words))
        else:
            key = (header.study_instance_uid, header.sop_instance_uid)
            copies += key in paths
            if key not in paths:
                paths[key] = path
                series = studies.setdefault(header.study_instance_uid, {})
                series.setdefault(header.series_instance_uid, []).append(header)
    return Folder(studies, not_dicom, copies, tuple(left_out), paths)


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders.sort()
        yield from (path for name in sorted(names) if (path := Path(where, name)).is_file())


def _header(path: Path) -> InstanceHeader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, and may be a patient's
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER_KEYWORDS))
        return InstanceHeader.of(dataset, str(dataset.file_meta.get("TransferSyntaxUID", "")))
