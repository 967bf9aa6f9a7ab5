"""``hilum models`` and its neighbours as commands, on real files and a real database, without loading torch."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from db.engine import Database
from db.images.index import add_instances, snapshot
from db.work.revisions import close_study
from hilum.config import Settings, load
from hilum.doctor import _models
from hilum.models.measured import Measured, keep, unmeasured
from hilum.planning import plan_study, read_cards
from inference.catalog import digest_of
from study.entities import StoredInstance
from study.headers import InstanceHeader
from tests.support.bundles import zoo_bundle
from tests.support.node import HILUM
from tests.support.series import axial_affine, ct_series, save_series

NETWORK = "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x\n"
CONFIG = """\
[node]
bind = "127.0.0.1"
port = 0
disk_reserve_mb = 0
[[models]]
name = "lung_ct"
bundle = "builtin:lung_ct"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path


def hilum(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HILUM_")}
    return subprocess.run(
        [HILUM, *arguments], cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def spleen(folder: Path) -> Path:
    output = {"type": "image", "format": "segmentation", "channel_def": {"0": "background", "1": "spleen", "2": "odd"}}
    return zoo_bundle(folder, network=NETWORK, output=output, modality="MR")


def chest(study: str, slices: int = 12, **attributes: Any) -> list[Dataset]:  # noqa: ANN401 - values of attributes
    voxels = np.zeros((slices, 8, 8))
    return ct_series(voxels, axial_affine((2.0, 0.8, 0.8)), study_instance_uid=study, attributes=attributes)


def table(output: str) -> list[list[str]]:
    """Return the rows of "Series by model", without the header."""
    lines = [line.split("\t") for line in output.splitlines()]
    start = next(place for place, cells in enumerate(lines) if cells[:3] == ["Model", "Series", "Description"])
    rows = lines[start + 1 :]
    others = (place for place, cells in enumerate(rows) if len(cells) != len(lines[start]) or cells[0] == "Job")
    return rows[: next(others, len(rows))]


def test_a_model_is_added_listed_and_refused_when_its_bundle_changes(home: Path) -> None:
    bundle = spleen(home / "bundles" / "spleen")
    added = hilum(home, "models", "add", "bundles/spleen")
    assert added.returncode == 0, added.stderr
    assert "added spleen in config.toml; restart hilum serve" in added.stdout
    digest = digest_of(bundle)
    rows = [line.split("\t") for line in hilum(home, "models").stdout.splitlines()]
    assert rows[0] == ["Name", "Kind", "Version", "Modality", "Gives", "Digest (SHA-256)", "Set", "May run"]
    assert rows[2] == ["spleen", "segmentation", "0.3.1", "MR", "Spleen, odd", digest, "", "yes"]
    told = hilum(home, "doctor").stdout
    assert "; spleen 0.3.1 (segmentation, MR)\n" in told
    assert "ok   model spleen: advice: odd: written with the general code Tissue" in told

    (bundle / "scripts" / "net.py").write_text(f"{NETWORK}# changed\n")
    changed = digest_of(bundle)
    row = hilum(home, "models").stdout.splitlines()[2].split("\t")
    assert digest in row[7]
    assert changed in row[7]
    checked = hilum(home, "doctor")
    assert checked.returncode == 1
    (line,) = [line for line in checked.stdout.splitlines() if line.startswith("FAIL models: ")]
    for words in (digest, changed, "hilum models add", "--replace"):
        assert words in line
    again = hilum(home, "models", "add", "bundles/spleen", "--name", "spleen", "--replace")
    assert again.returncode == 0, again.stderr
    assert hilum(home, "models").stdout.splitlines()[2].endswith("\tyes")


def with_devices_listed(settings: Settings, *devices: str) -> Settings:
    return settings.model_copy(update={"inference": settings.inference.model_copy(update={"devices": devices})})


def test_what_is_set_of_a_model_is_listed_and_a_precision_that_nobody_measured_is_advised_against(home: Path) -> None:
    own = 'precision = "bfloat16"\ncompile = true\ndeliver = false\npriority = 3\n'
    (home / "config.toml").write_text(CONFIG + own)
    row = hilum(home, "models").stdout.splitlines()[1].split("\t")
    assert row[6] == "bfloat16, compiled, deliver = false, priority 3"
    settings = load(home / "config.toml", environment={})
    card = read_cards(settings)["lung_ct"]
    advice = (
        "precision bfloat16 and compile are on, and the difference from float32 was never measured for this digest on "
        "the processor: hilum models bench lung_ct STUDY"
    )
    settings = with_devices_listed(settings, "cpu")
    (found,) = [each for each in _models(settings) if each.subject == "model lung_ct"]
    assert (found.good, found.words) == (True, f"advice: {advice}")
    measured = Measured("lung_ct", card.digest, "bfloat16", True, "cpu", "CPU", "2026-03-04T10:00:00+00:00", {})
    assert keep(settings, measured) == home / "var" / "bench" / "lung_ct.json"
    assert unmeasured(settings, card) is None
    assert [path.name for path in (home / "var" / "bench").iterdir()] == ["lung_ct.json"]
    keep(settings, replace(measured, digest="0" * 64))  # of another bundle
    assert unmeasured(settings, card) == advice
    keep(settings, replace(measured, precision="float16"))  # of another setting
    assert unmeasured(settings, card) == advice
    keep(settings, measured)
    on_gpu = unmeasured(with_devices_listed(settings, "cpu", "cuda:1"), card)  # it was measured on the processor
    assert on_gpu == advice.replace("the processor", "a GPU")
    keep(settings, replace(measured, device="cuda:0"))
    assert unmeasured(settings, card) == advice
    assert unmeasured(with_devices_listed(settings, "cpu", "cuda:1"), card) is None
    (home / "var" / "bench" / "lung_ct.json").write_text("[]")
    assert unmeasured(settings, card) == advice


def test_plain_float32_needs_no_measuring(home: Path) -> None:
    (home / "config.toml").write_text(f'{CONFIG}precision = "float32"\n')
    settings = load(home / "config.toml", environment={})
    assert unmeasured(settings, read_cards(settings)["lung_ct"]) is None


def test_a_report_of_a_model_without_a_database_says_what_makes_one(home: Path) -> None:
    done = hilum(home, "models", "report", "lung_ct")
    assert (done.returncode, done.stdout) == (1, "")
    assert "hilum serve makes it" in done.stderr


def test_a_refusal_is_one_line_and_status_2_where_the_configuration_is_to_blame(home: Path) -> None:
    spleen(home / "lung_ct")
    there = hilum(home, "models", "add", "lung_ct")
    assert (there.returncode, there.stdout) == (2, "")
    assert there.stderr.count("\n") == 1
    assert "models.lung_ct is there already" in there.stderr
    nowhere = hilum(home, "models", "add", "nowhere")
    assert nowhere.returncode == 1
    assert nowhere.stderr.startswith("hilum: BundleInvalid: ")
    before = hilum(home, "models", "--config", "config.toml", "add", "lung_ct")
    assert before.returncode == 2
    assert "write --config and --set behind hilum models add" in before.stderr


def test_a_configuration_that_can_not_be_written_is_said_with_the_lines_to_add(home: Path) -> None:
    bundle = spleen(home / "spleen")
    done = subprocess.run(
        [HILUM, "models", "add", "spleen"], cwd=home, capture_output=True, text=True, check=False, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50)),
    )  # fmt: skip
    assert done.returncode == 2
    assert "config.toml can not be written: File too large; add the lines above to it" in done.stderr
    assert done.stdout.endswith(f'bundle = "spleen"\ndigest = "{digest_of(bundle)}"\n\n')
    assert (home / "config.toml").read_text() == CONFIG
    assert sorted(path.name for path in home.iterdir()) == ["config.toml", "spleen"]


def test_a_folder_is_judged_study_by_study_with_every_reason(home: Path) -> None:
    folder = home / "images"
    tilted = chest("1.2.2", SeriesNumber=7, SeriesDescription="Neck", ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6])
    save_series(chest("1.2.1", SeriesDescription="Chest"), folder / "a")
    shutil.copytree(folder / "a", folder / "again")
    save_series(chest("1.2.1", 1, SeriesNumber=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), folder / "scout")
    save_series(tilted, folder / "b")
    (folder / "notes.txt").write_text("x")
    (folder / "empty").write_bytes(b"")
    (folder / "cut.dcm").write_bytes((folder / "a" / "00000.dcm").read_bytes()[:400])
    done = hilum(home, "models", "test", "images")
    assert done.returncode == 1  # on the second study nothing runs
    lines = done.stdout.splitlines()
    assert lines[:2] == ["not DICOM: 2 files", "copies of an instance that another file holds: 12 files"]
    assert lines[2].startswith("can not be indexed: images/cut.dcm: ")
    assert lines[3] == "Study 1.2.1: 2 series, 13 instances"
    assert '  lung_ct would run on series 3 "Chest"' in lines
    assert "Study 1.2.2: 1 series, 12 instances" in lines
    verdicts = {tuple(row[:3]): row[4:6] for row in table(done.stdout)}
    assert verdicts["lung_ct", "3", "Chest"] == ["chosen", ""]
    assert verdicts["lung_ct", "1", "Phantom axial"][0] == "not wanted"
    assert "LOCALIZER" in verdicts["lung_ct", "1", "Phantom axial"][1]
    second = table(done.stdout.partition("Study 1.2.2")[2])
    assert second[0][4] == "refused"
    assert "GantryTilt: The slices are tilted by" in second[0][5]
    assert lines[-1] == "  lung_ct would not run: GantryTilt"


def test_the_json_has_the_same(home: Path) -> None:
    save_series(chest("1.2.1"), home / "images")
    (home / "images" / "notes.txt").write_text("x")
    done = hilum(home, "models", "test", "images", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["files"] == {"not_dicom": 1, "copies": 0, "left_out": []}
    (study,) = found["studies"]
    (model,) = study["models"]
    (verdict,) = study["verdicts"]
    assert (study["study_instance_uid"], study["series"], study["instances"], study["conflicts"]) == (
        "1.2.1",
        1,
        12,
        [],
    )
    assert (model["model"], model["runs"], model["reasons"]) == ("lung_ct", True, [])
    assert model["series_instance_uid"] == verdict["series_instance_uid"]
    assert (verdict["outcome"], verdict["series_number"], verdict["reasons"]) == ("CHOSEN", 3, [])


def test_two_patients_in_a_study_keep_every_model_from_it(home: Path) -> None:
    images = chest("1.2.1")
    images[3].PatientID = "SOMEBODY ELSE"
    save_series(images, home / "images")
    done = hilum(home, "models", "test", "images")
    assert done.returncode == 1
    assert "  no model would run: ConflictingIdentity: The study holds 2 different values of PatientID" in done.stdout
    assert done.stdout.endswith("  lung_ct would not run: ConflictingIdentity\n")
    assert "SOMEBODY" not in done.stdout
    found = json.loads(hilum(home, "models", "test", "images", "--json").stdout)["studies"][0]
    assert found["models"][0] == {
        "model": "lung_ct",
        "runs": False,
        "series_instance_uid": None,
        "stack": None,
        "reasons": found["conflicts"],
    }


def test_a_changed_bundle_is_why_its_model_would_not_run(home: Path) -> None:
    bundle = zoo_bundle(home / "toy", network=NETWORK)
    assert hilum(home, "models", "add", "toy").returncode == 0
    (bundle / "LICENSE").write_text("other")
    save_series(chest("1.2.1"), home / "images")
    done = hilum(home, "models", "test", "images")
    assert done.returncode == 0  # the other model runs
    assert "  toy would not run: BundleChanged: " in done.stdout


@pytest.mark.parametrize("what", ["empty", "nowhere"])
def test_nothing_to_test_is_said(home: Path, what: str) -> None:
    (home / "empty").mkdir()
    done = hilum(home, "models", "test", what)
    assert done.returncode == 1
    words = {"empty": "there is no DICOM study in empty", "nowhere": "nowhere is no folder, and no study of the node"}
    assert words[what] in done.stderr


def test_settings_decide_as_they_would_in_the_node(home: Path) -> None:
    save_series(chest("1.2.1"), home / "images")
    done = hilum(home, "models", "test", "images", "--set", "models.lung_ct.select.slices=[20, 500]")
    assert done.returncode == 1
    assert "12" in table(done.stdout)[0][5]


def indexed(home: Path, groups: Sequence[Sequence[Dataset]]) -> None:
    """Make the node's database hold these series, and judge their study as the indexer does."""
    settings = load(home / "config.toml", environment={})
    settings.data_dir.mkdir()
    database = Database.open(settings.database_url)
    database.migrate()
    instances = []
    for dataset in (dataset for group in groups for dataset in group):
        header = InstanceHeader.of(dataset, ExplicitVRLittleEndian)
        digest = f"digest {header.sop_instance_uid}"
        instances.append(StoredInstance(header, digest, "", digest, 1, "MODALITY", datetime.now(UTC)))
    with database.writing() as uow:
        add_instances(uow, instances)
        uow.commit()
    with database.reading() as uow:
        seen = snapshot(uow, instances[0].header.study_instance_uid)
    plan = plan_study(settings, read_cards(settings), seen.series)
    with database.writing() as uow:
        close_study(uow, seen.study_instance_uid, plan.jobs, plan.words, seen.generation, plan.verdicts)
        uow.commit()
    database.close()


def test_show_and_test_say_the_same_of_a_study_of_the_node(home: Path) -> None:
    spleen(home / "spleen")
    assert hilum(home, "models", "add", "spleen").returncode == 0
    groups = [chest("1.2.1"), chest("1.2.1", SeriesNumber=4, SliceThickness=5), chest("1.2.1", 3, SeriesNumber=5)]
    indexed(home, groups)
    by_number = hilum(home, "models", "test", "A123")
    assert by_number.returncode == 0, by_number.stderr
    shown = hilum(home, "show", "1.2.1")
    assert shown.returncode == 0, shown.stderr
    assert table(shown.stdout) == table(by_number.stdout)
    outcomes = {(row[0], row[1]): row[4] for row in table(shown.stdout)}
    assert outcomes == {
        ("lung_ct", "3"): "chosen",
        ("lung_ct", "4"): "accepted",
        ("lung_ct", "5"): "refused",
        **{("spleen", number): "not wanted" for number in "345"},
    }
    of_show = json.loads(hilum(home, "show", "1.2.1", "--json").stdout)["verdicts"]
    of_test = json.loads(hilum(home, "models", "test", "1.2.1", "--json").stdout)
    assert of_test["files"] is None
    assert of_show == of_test["studies"][0]["verdicts"]
    assert len(of_show) == 6


@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        ["models", "add", "toy"],
        ["models", "test", "images"],
        ["models", "report", "lung_ct"],
        ["studies"],
    ],
)
def test_no_command_about_models_loads_torch_and_the_list_of_studies_nothing_of_theirs(
    home: Path, arguments: list[str]
) -> None:
    zoo_bundle(home / "toy", network=NETWORK)
    images = chest("1.2.1")
    save_series(images, home / "images")
    indexed(home, [images])
    code = (
        "import atexit, sys\n"
        "heavy = {'torch', 'monai', 'highdicom', 'pynetdicom', 'scipy'} | ({'tomlkit', 'yaml'} & set(sys.argv[2:]))\n"
        "atexit.register(lambda: print('loaded', sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "sys.argv = ['hilum', *sys.argv[1].split()]\n"
        "from hilum.main import main; main()"
    )
    also = ["tomlkit", "yaml"] if arguments == ["studies"] else []
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, " ".join(arguments), *also],
        cwd=home, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "loaded []"
    assert done.stdout
