"""Reporter: writes the refusal report of one job, and ends. Knows no database, loads no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from hilum.authorship import model_identity, result_context
from hilum.config import Settings
from hilum.outages import full
from hilum.planning import read_cards
from hilum.processes import Station
from hilum.rejecting import rejected_kept
from hilum.working.wire import Answer, Request, endpoint
from sr_writer.notices import write_notices
from study.entities import ResultObject
from study.errors import BundleInvalid, HilumError, SourceUnreadable

log = structlog.get_logger()


def run(station: Station) -> None:
    """Answer one request."""
    line = endpoint(station.descriptors["line"])
    station.announce({})
    request = Request.from_bytes(line.recv_bytes())
    structlog.contextvars.bind_contextvars(**request.names)
    line.send_bytes(_answer(station.settings, request).to_bytes())


def _answer(settings: Settings, request: Request) -> Answer:
    try:
        results = report(settings, request)
    except HilumError as error:
        log.warning("notice.failed", code=error.code, exc_info=True)
        return Answer.of_error(request, full(error) or error)
    except Exception as error:  # the process's edge: a strange header may raise anything, and it must be on record
        if disk := full(error):
            log.warning("notice.disk_full")
            return Answer.of_error(request, disk)
        log.exception("notice.crashed")
        words = f"Writing it stopped with {type(error).__name__}; the log has the details."
        return Answer.of_crash(words, request)
    return Answer(request.job_id, request.attempt, "done", results)


def report(settings: Settings, request: Request) -> tuple[ResultObject, ...]:
    """Write the refusal reports of a job, and return them with their paths relative to the store.

    Raises
    ------
    EncodingError
        If the images do not say whose they are, or the report would break a rule.
    """
    card = read_cards(settings).get(request.model_name)
    if card is None:
        raise BundleInvalid(f"There is no model {request.model_name} in the configuration; hilum retry plans anew.")
    if request.reason is None:
        raise BundleInvalid("A refusal report was asked for without a reason.")
    with rejected_kept(Path(request.folder), settings.data_dir):
        objects = write_notices(
            [dataclasses.replace(request.reason, numbers={})],  # its words have the numbers that matter
            _sources(request),
            model_identity(request, card),
            result_context(request, card, settings.results.time_zone),
            Path(request.folder),
            request.variants,
            failed=request.failed,
            images=len(request.instances),
        )
    return tuple(
        dataclasses.replace(each, path=str((Path(request.folder) / each.path).resolve().relative_to(settings.data_dir)))
        for each in objects
    )


def _sources(request: Request) -> list[Dataset]:
    """Return the headers of some of the images: the first, the middle and the last one that can be read.

    Raises
    ------
    SourceUnreadable
        If none can.
    """
    paths = [path for path, _ in request.instances]
    found = [header for start in (0, len(paths) // 2) if (header := _first_readable(paths[start:]))]
    found += [header for header in [_first_readable(paths[::-1])] if header]
    if not found:
        raise SourceUnreadable("None of the images can be read, so that nobody knows in whose name to report.")
    return list({str(header.SOPInstanceUID): header for header in found}.values())


def _first_readable(paths: Sequence[str]) -> Dataset | None:
    for path in paths:
        try:
            return dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, OSError):
            log.warning("notice.unreadable", file=Path(path).name)
    return None
