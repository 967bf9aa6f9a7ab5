"""Which models are loaded ahead, and which are left to their own jobs."""

from __future__ import annotations

from hilum.working.warming import Warming


def order(warming: Warming) -> list[str]:
    """Return the models in the order in which they are loaded."""
    found = []
    while (model := warming.next()) is not None:
        found.append(model)
        warming.is_loaded(model)
    return found


def test_nothing_is_loaded_before_there_is_a_process() -> None:
    assert Warming(["a"]).next() is None


def test_all_are_loaded_in_the_order_of_the_configuration() -> None:
    warming = Warming(["a", "b", "c"])
    warming.begin_anew()
    assert order(warming) == ["a", "b", "c"]
    assert warming.next() is None


def test_what_was_used_last_comes_first_in_a_new_process() -> None:
    warming = Warming(["a", "b", "c"])
    warming.begin_anew()
    warming.is_used("b")
    warming.is_used("c")
    warming.is_used("of no entry")
    assert order(warming) == ["a"]
    warming.begin_anew()
    assert order(warming) == ["c", "b", "a"]


def test_what_does_not_load_is_never_tried_ahead_again() -> None:
    warming = Warming(["a", "b"])
    warming.begin_anew()
    warming.leave_cold("a")
    assert order(warming) == ["b"]
    warming.begin_anew()
    assert order(warming) == ["b"]
