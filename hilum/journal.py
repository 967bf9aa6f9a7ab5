"""Logs in JSON lines: one event name each, a file per process, never a patient's name or ID."""

from __future__ import annotations

import logging
import logging.handlers
import sys
import traceback
from pathlib import Path

import structlog

from study.errors import HilumError

_LARGEST_FILE = 10_000_000  # [bytes]
_KEPT_FILES = 5
_LONGEST_CHAIN = 8  # exceptions that led to one another


def _describe_exception(logger: object, method: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Put the stack of an exception into the entry, and the words of our own errors alone.

    Messages of libraries quote values of the data set, and with them patients.
    """
    del logger, method
    given = entry.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else (given[1] if isinstance(given, tuple) else sys.exc_info()[1])
    if not given or error is None:
        return entry
    chain: list[str] = []
    while error is not None and len(chain) < _LONGEST_CHAIN:
        words = f": {error.words}" if isinstance(error, HilumError) else ""
        frames = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
        ]
        chain.append(f"{type(error).__name__}{words} at {' > '.join(frames)}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return {**entry, "exception": chain}


def open_journal(folder: Path, process: str, level: str) -> None:
    """Send this process's log to ``folder/process.jsonl``, and warnings to standard error as well.

    Libraries that use the standard logging module (pynetdicom, sqlalchemy, alembic) end there too, from WARNING on:
    below it pynetdicom prints data sets, and with them patients.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def name_process(logger: object, method: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
        del logger, method
        return {"process": process, **entry}

    steps: list[structlog.typing.Processor] = [
        name_process,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _describe_exception,
    ]
    to_json = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=steps,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(default=str),
        ],
    )
    file = logging.handlers.RotatingFileHandler(
        folder / f"{process}.jsonl", maxBytes=_LARGEST_FILE, backupCount=_KEPT_FILES, encoding="utf-8"
    )
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING)
    root = logging.getLogger()
    root.handlers.clear()
    for handler in (file, terminal):
        handler.setFormatter(to_json)
        root.addHandler(handler)
    root.setLevel(level.upper())
    for library in ("sqlalchemy", "alembic", "PIL", "highdicom"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # each outcome is an event of ours already
    logging.getLogger("pydicom").setLevel(logging.ERROR)  # its warnings quote values of the data set
    structlog.configure(
        processors=[*steps, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
