"""Keep pynetdicom's log free of patients: by default it writes identifiers and elements of data sets."""

from __future__ import annotations

from pynetdicom import _config


def quieten_pynetdicom() -> None:
    """Make pynetdicom log no identifiers and no PDUs in this process; its warnings and errors stay."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
