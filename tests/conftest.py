"""Shared fixtures, and the rule that nothing is skipped where everything must be there."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

SKIPPING_IS_FORBIDDEN = os.environ.get("TESTS_MUST_NOT_SKIP", "") not in ("", "0")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where TESTS_MUST_NOT_SKIP is set, as it is in continuous integration."""
    report = yield
    if SKIPPING_IS_FORBIDDEN and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} was skipped where skipping is forbidden: {call.excinfo and call.excinfo.value}"
        )
    return report
