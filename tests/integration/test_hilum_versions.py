"""Images that come again: a corrected header is analysed anew, other pixels are an alarm until a person decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from hilum.config import Settings, load
from hilum.problems import find_problems, remedy
from hilum.requesting import analyse
from study.entities import StudyRecord
from study.states import StudyState
from tests.support.network import free_port, wait_until
from tests.support.reception import Reception, receiving
from tests.support.series import axial_affine, ct_series

CONFIG = """
[node]
port = {port}
disk_reserve_mb = 0
accept = "any"
[study]
quiet_seconds = 0.3
[[models]]
name = "lung_ct"
bundle = "builtin:lung_ct"
"""
STUDY = "2.25.8100"


def configured(folder: Path) -> Settings:
    config = folder / "config.toml"
    config.write_text(CONFIG.format(port=free_port()))
    settings = load(config, environment={})
    settings.data_dir.mkdir()
    return settings


def images(value: int = 0, **attributes: object) -> list[Dataset]:
    made = ct_series(
        np.full((20, 8, 8), -500),
        axial_affine((2.0, 0.8, 0.8)),
        study_instance_uid=STUDY,
        series_instance_uid=f"{STUDY}.1",
        attributes=attributes,
    )
    for number, image in enumerate(made):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(f"{STUDY}.2.{number}")
    if value:
        made[3].PixelData = np.full((8, 8), value, dtype=np.int16).tobytes()
    return made


def settled(node: Reception, jobs: int) -> StudyRecord:
    """Return the record once so many jobs were ever planned and nothing awaits evaluation."""
    found: list[StudyRecord] = []

    def is_settled() -> bool:
        record = node.record(STUDY)
        found[:] = [record] if record is not None else []
        return bool(found) and len(found[0].jobs) == jobs and found[0].summary.state is not StudyState.RECEIVING

    wait_until(is_settled, 20, f"{jobs} jobs")
    return found[0]


def send(node: Reception, these: Sequence[Dataset]) -> None:
    node.send(these)


def test_other_pixels_are_refused_until_a_person_wants_the_newest(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    with receiving(settings, listens_for=60) as node:
        send(node, images())
        assert settled(node, 1).summary.state is StudyState.COMPLETE
        send(node, images(StudyDescription="corrected"))
        assert settled(node, 2).summary.state is StudyState.COMPLETE  # whose name was corrected is analysed again
        send(node, images(900, StudyDescription="corrected"))
        record = settled(node, 3)
        assert record.summary.state is StudyState.REFUSED
        assert record.summary.reason is not None
        assert (record.summary.reason.code, record.summary.reason.numbers) == ("PixelsChanged", {"images": 1})
        assert "hilum analyse" in record.summary.reason.words

        (problem,) = find_problems(settings, node.database)
        assert (problem.kind, problem.subject, remedy(problem).endswith(f"hilum analyse {STUDY}")) == (
            "alarm",
            STUDY,
            True,
        )

        said = list(analyse(settings, node.database, STUDY))
        assert said[0].startswith("lung_ct: runs on 20 image(s)")
        wait_until(lambda: settled(node, 3).summary.state is StudyState.COMPLETE, 20, "the newest are analysed")
        assert find_problems(settings, node.database) == []

        send(node, images(901, StudyDescription="corrected"))  # what a person said holds for what he saw
        assert settled(node, 4).summary.state is StudyState.REFUSED
