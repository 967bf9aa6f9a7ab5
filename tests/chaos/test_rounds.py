"""A quick run of the chaos rounds, and proof that their checker sees what it is there for."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid

from scp.sending.sender import send_files
from tests.chaos.checker import FORMS, judge, lost
from tests.chaos.modality import SLICES, Studies, acknowledged_in
from tests.chaos.rounds import SILENCE_SECONDS, Chaos
from tests.support.node import MODALITY
from tests.support.orthanc import Orthanc

ROUNDS = 12
BEGINS_FOR_SECONDS = 25.0


def test_a_quick_run_loses_nothing_and_leaves_nothing_twice_or_stuck(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"python -m tests.chaos --rounds {ROUNDS} --seed {seed}")
    with Chaos(tmp_path, seed) as chaos:
        number = 0
        while number < ROUNDS and chaos.seconds < BEGINS_FOR_SECONDS:
            number += 1
            print(chaos.round(number))
        tally = chaos.finish()
        print(*tally.lines(), sep="\n")
        assert tally.is_clean(0)
        assert tally.kills >= number
        assert (tally.acknowledged, tally.results) == (SLICES * tally.studies, 2 * tally.studies)
        demand_the_checker_sees(chaos, tmp_path)


def demand_the_checker_sees(chaos: Chaos, tmp_path: Path) -> None:
    study = chaos.studies[0]
    acknowledged = acknowledged_in(chaos.wire_log)[study.uid]
    a_file = next((chaos.data_dir / "store" / study.uid).rglob("*.dcm"))
    a_file.write_bytes(a_file.read_bytes()[:-1] + b"\xff")
    assert len(lost(chaos.data_dir, study.uid, acknowledged)) == 1
    send_again_under_a_new_uid(chaos.orthanc, study.uid, tmp_path / "again.dcm")
    assert len(judge(chaos.orthanc, study, SILENCE_SECONDS).twice) == 1
    never_sent = Studies(tmp_path / "never").make(0)
    assert judge(chaos.orthanc, never_sent, SILENCE_SECONDS).missing == FORMS


def send_again_under_a_new_uid(orthanc: Orthanc, study_instance_uid: str, path: Path) -> None:
    (found,) = orthanc.instances(StudyInstanceUID=study_instance_uid, Modality="SR")
    result = dcmread(BytesIO(orthanc.get_bytes(f"/instances/{found['ID']}/file")))
    result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    result.save_as(path)
    assert all(sent.error is None for sent in send_files(orthanc.peer, MODALITY, [path]))
