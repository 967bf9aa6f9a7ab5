"""Logs in JSON lines: one event name each, a file per process, never a patient's name or ID."""

from __future__ import annotations

import logging
import logging.handlers
import sys
import threading
import traceback
import warnings
from pathlib import Path
from types import TracebackType
from typing import TextIO

import structlog

from study.errors import HilumError

_LARGEST_FILE = 10_000_000  # [bytes]
_KEPT_FILES = 5
_LONGEST_CHAIN = 8  # exceptions that led to one another
_OURS = frozenset({"hilum", "scp", "inference", "sr_writer", "db", "study"})


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


def _name_association(logger: object, method: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Say of what is logged in the threads of a caller's association which one it is."""
    del logger, method
    kind, _, name = threading.current_thread().name.partition("-")
    return {"association": name, **entry} if kind == "association" else entry


def _hush_libraries(logger: object, method: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Leave out what a library says: only that it spoke, and where; of our wings' own notes make an event."""
    del logger, method
    record: logging.LogRecord = entry["_record"]
    if record.name.partition(".")[0] in _OURS:
        return {**entry, "event": "wing.note", "wing": record.name, "words": entry["event"]}
    return {**entry, "event": "library.note", "library": record.name, "at": f"{record.pathname}:{record.lineno}"}


def _note_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log that a library warned, without its words: they quote values of the data set."""
    del message, file, line
    structlog.get_logger().debug("library.warned", category=category.__name__, at=f"{filename}:{lineno}")


def _log_crashes() -> None:
    """Have errors that nobody catches logged as all others are, not printed with what libraries say of the data."""

    def of_process(kind: type[BaseException], error: BaseException, stack: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, stack)
        else:
            structlog.get_logger().critical("process.crashed", exc_info=error)

    def of_thread(crash: threading.ExceptHookArgs) -> None:
        structlog.get_logger().critical("thread.crashed", exc_info=crash.exc_value)

    sys.excepthook, threading.excepthook = of_process, of_thread


class _JournalFile(logging.handlers.RotatingFileHandler):
    """A log file that may be on a full disk: what does not fit is left out, which is told once."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say that entries are missing, and nothing of what they were about: logging would print whole exceptions."""
        del record
        if not self._told:
            self._told = True
            sys.stderr.write(f"hilum: {Path(self.baseFilename).name} can not be written; entries are missing there\n")


def open_journal(folder: Path, process: str, level: str) -> None:
    """Send this process's log to ``folder/process.jsonl``, and warnings to standard error as well.

    Of what libraries log, warn of, or leave uncaught, no word ends there, only where in their code it was: their words
    quote values of data sets, and with them patients. An entry about an association has its name.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def name_process(logger: object, method: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
        del logger, method
        return {"process": process, **entry}

    steps: list[structlog.typing.Processor] = [
        name_process,
        structlog.contextvars.merge_contextvars,
        _name_association,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _describe_exception,
    ]
    to_json = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_hush_libraries, *steps],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(default=str),
        ],
    )
    file = _JournalFile(folder / f"{process}.jsonl", maxBytes=_LARGEST_FILE, backupCount=_KEPT_FILES, encoding="utf-8")
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
    for library in ("pynetdicom", "pydicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # each outcome is an event of ours already
    warnings.showwarning = _note_warning
    _log_crashes()
    structlog.configure(
        processors=[*steps, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
