from __future__ import annotations

from pathlib import Path

import pytest

from hilum.rejecting import rejected_kept
from study.errors import EncodingError, GeometryMismatch, MissingIdentity, Reason

STUDY = Path("results") / "1.2.3"


def attempt(root: Path, error: EncodingError, content: str = "broken") -> EncodingError:
    """Return what is raised where the attempt 7-1 ends with an error, after it wrote a file."""
    folder = root / STUDY / "7-1"
    folder.mkdir(parents=True)
    (folder / "seg.dcm").write_text(content)
    with pytest.raises(EncodingError) as caught, rejected_kept(folder, root):
        raise error
    return caught.value


def test_what_fails_the_check_is_kept_and_the_words_say_where(tmp_path: Path) -> None:
    failed = GeometryMismatch("It lies elsewhere.", {"reasons": 1}, [Reason("GeometryMismatch", "It lies elsewhere.")])
    failed.file = "seg.dcm"
    told = attempt(tmp_path, failed)
    assert isinstance(told, GeometryMismatch)
    assert told.words.startswith(f"It lies elsewhere. It was not sent; it is kept as {STUDY}/rejected/7-1/seg.dcm in")
    assert (told.numbers, told.reasons, told.file) == (failed.numbers, failed.reasons, "seg.dcm")
    assert (tmp_path / STUDY / "rejected" / "7-1" / "seg.dcm").read_text() == "broken"
    assert not (tmp_path / STUDY / "7-1").exists()


def test_the_latest_of_several_tries_is_kept(tmp_path: Path) -> None:
    for content in ("first", "second"):
        failed = EncodingError("It is broken.")
        failed.file = "seg.dcm"
        attempt(tmp_path, failed, content)
    assert (tmp_path / STUDY / "rejected" / "7-1" / "seg.dcm").read_text() == "second"


def test_what_can_not_be_written_leaves_nothing_aside(tmp_path: Path) -> None:
    told = attempt(tmp_path, MissingIdentity("No Patient ID."))
    assert told.words == "No Patient ID."
    assert not (tmp_path / STUDY / "rejected").exists()


def test_what_keeps_every_rule_stays(tmp_path: Path) -> None:
    folder = tmp_path / STUDY / "7-1"
    folder.mkdir(parents=True)
    with rejected_kept(folder, tmp_path):
        (folder / "seg.dcm").write_text("sound")
    assert (folder / "seg.dcm").exists()
