"""Shared settings, the order of the tests, and the rule that nothing is skipped where everything must be there."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import is_hypothesis_test, settings

SKIPPING_IS_FORBIDDEN = os.environ.get("TESTS_MUST_NOT_SKIP", "") not in ("", "0")

SLOWEST_FIRST = ("chaos", "conformance", "e2e", "integration", "unit")
"""Folders in the order in which their modules are begun, so that workers end together on the small ones."""

# As in a node's runners (hilum/processes.py): torch's threads that wait by spinning take the cores from the other
# worker and from every node under test, and triple what the models' own tests cost. torch reads it as it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How long one example takes says nothing where several workers and real peers share the machine's cores.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders with long modules first, and leave tests of drawn examples out of the coverage.

    The order within a folder stays. Drawn examples take the same lines many hundred times, and tracing them doubles
    what they cost; which of the rarer lines they take is chance, so that coverage without them is the same every time.
    """
    for item in items:
        if isinstance(item, pytest.Function) and is_hypothesis_test(item.function):
            item.add_marker("no_cover")

    on_gpu = [item for item in items if "gpu" in item.keywords]
    if on_gpu and not _there_is_a_gpu():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))

    def rank(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return SLOWEST_FIRST.index(folder) if folder in SLOWEST_FIRST else 0

    items.sort(key=rank)


def _there_is_a_gpu() -> bool:
    import torch  # here: it takes seconds, which only a run with such tests pays

    return torch.cuda.is_available()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where TESTS_MUST_NOT_SKIP is set, as it is in continuous integration."""
    report = yield
    needs_hardware = "gpu" in item.keywords  # which no installation brings
    if SKIPPING_IS_FORBIDDEN and report.skipped and not needs_hardware and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} was skipped where skipping is forbidden: {call.excinfo and call.excinfo.value}"
        )
    return report
