"""What receivers know of C-MOVE requests of ours that are under way."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from scp.receiving.moves import LASTS_SECONDS, Moves


def test_an_instance_is_expected_of_its_archive_while_the_request_is_under_way(tmp_path: Path) -> None:
    asker, receiver = Moves.below(tmp_path), Moves.below(tmp_path)
    assert not receiver.expect("PACS", "1.2.3")
    with asker.under_way("PACS", ["1.2.3", "1.2.4"]), asker.under_way("A/B C", ["1.2.5"]):
        assert receiver.expect("PACS", "1.2.3")
        assert receiver.expect("PACS", "1.2.4")
        assert receiver.expect("A/B C", "1.2.5")
        assert not receiver.expect("PACS", "1.2.5")
        assert not receiver.expect("PAC", "1.2.3")
    assert not receiver.expect("PACS", "1.2.3")
    assert not receiver.expect("A/B C", "1.2.5")


def test_after_an_error_it_is_expected_for_a_while(tmp_path: Path) -> None:
    moves = Moves(tmp_path / "moves")
    with pytest.raises(TimeoutError), moves.under_way("PACS", ["1.2.3"]):
        raise TimeoutError
    assert moves.expect("PACS", "1.2.3")
    (left,) = (tmp_path / "moves").iterdir()
    long_ago = time.time() - LASTS_SECONDS - 1
    os.utime(left, (long_ago, long_ago))
    assert not moves.expect("PACS", "1.2.3")
    with moves.under_way("PACS", ["1.2.4"]):
        assert not left.exists()
