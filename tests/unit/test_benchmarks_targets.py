"""The targets: each verdict follows from its figures, and what was not measured is not called met."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.targets import Verdict, print_verdicts, verdicts


def reception(**rates: float) -> dict[str, Any]:
    """Return what the benchmark of reception writes; keys are server_associations."""
    names = {"hilum": "hilum (2 receivers)", "orthanc": "Orthanc (SQLite)", "bare": "bare loop, log", "scp": "storescp"}
    rows = []
    for key, rate in rates.items():
        server, associations = key.split("_")
        memory = 120.0 if server == "hilum" else 3000.0
        rows.append(
            {
                "server": names[server],
                "associations": int(associations),
                "images_per_second": rate,
                "peak_memory_mb": memory,
            }
        )
    return {"rows": rows}


CT = reception(hilum_1=600, orthanc_1=200, bare_1=700, scp_1=900, hilum_4=800, orthanc_4=400, hilum_64=770)
STUDY = {
    "slices": 500,
    "chains": [{"from_complete_model_aside": 9.0}, {"from_complete_model_aside": 1.9}],
    "app_sdk": [{"warm": 2.0, "process": 6.0}],
    "volumes_above_rest": 2.5,
}
SCALING = {
    "costs": [
        {"slices": 100, "milliseconds_a_slice": 9.0},
        {"slices": 500, "milliseconds_a_slice": 5.0},
        {"slices": 1000, "milliseconds_a_slice": 5.4},
    ],
    "sides": {"reception_slower_percent": 1.0, "turnaround_longer_percent": 6.5},
}


def verdict(figures: dict[str, Any], *words: str) -> Verdict:
    (found,) = (each for each in verdicts(figures) if all(word in each.target for word in words))
    return found


@pytest.mark.parametrize(
    ("words", "measured", "met"),
    [
        (("CT", "of Orthanc", "1 association"), "3.00", True),
        (("CT", "of Orthanc", "4 associations"), "2.00", False),
        (("bare loop", "1 association"), "0.86", True),
        (("bare loop", "4 associations"), "", None),
        (("64 associations",), "0.96", True),
        (("peak memory, CT",), "120", True),
        (("peak memory, MR",), "", None),
    ],
)
def test_reception(words: tuple[str, ...], measured: str, met: bool | None) -> None:
    found = verdict({"ct": CT, "mr": None}, *words)
    assert (found.measured, found.met) == (measured, met)


def test_turnaround_is_judged_warm_and_by_the_sdk_beside_it() -> None:
    figures = {"turnaround": {"studies": [STUDY | {"slices": 275}, STUDY]}}
    assert verdict(figures, "500 slices, complete").met is True
    assert verdict(figures, "warm (measured beside it): at most 2.00").met is True
    assert verdict(figures, "a third", "measured beside it): at most 2.00").met is True
    alone = {"turnaround": {"studies": [STUDY | {"app_sdk": []}]}}
    assert verdict(alone, "a third", "machine of the target): at most 1.83").met is False
    assert verdict(alone, "runner above rest").met is True


def test_growth_is_counted_from_500_slices_on_and_a_backlog_in_percent() -> None:
    assert verdict({"scaling": SCALING}, "linear").measured == "1.08"
    assert verdict({"scaling": SCALING}, "linear").met is True
    assert verdict({"backlog": SCALING}, "backlog", "reception").met is True
    assert verdict({"backlog": SCALING}, "backlog", "turnaround").met is False


def test_the_analysis_is_the_median_of_its_runs() -> None:
    figures = {"lung_ct": {"slices": 100, "runs": [{"decode": 0.2, "inference": 0.5}, {"inference": 0.9}]}}
    assert verdict(figures, "lung_ct").measured == "8.00"


def test_what_was_not_measured_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    found = verdicts({})
    assert {each.met for each in found} == {None}
    print_verdicts(found)
    assert capsys.readouterr().out.count("not measured") == len(found)
