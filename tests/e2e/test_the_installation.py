"""The wheel, installed elsewhere and run outside of the checkout; the commands' answers to mistakes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pydicom
import pytest

from tests.support.node import HILUM
from tests.support.peers import REPOSITORY, shared


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(folder),
        str(REPOSITORY),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("hilum-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment in which the installed wheel, and not the checkout, is what Python finds."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return os.environ | {"PYTHONPATH": str(folder)}


def run(arguments: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", "from hilum.main import main; main()", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_the_wheel_holds_bundles_and_migrations_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "inference/bundles/lung_ct/configs/metadata.json",
        "inference/bundles/lung_ct/configs/inference.json",
        "db/migrations/env.py",
        "sr_writer/picture/fonts/DroidSansFallback.ttf",
        "sr_writer/picture/fonts/LICENSE-DejaVu.txt",
    ):
        assert name in names
    assert any(name.startswith("db/migrations/versions/") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert any(name.endswith("/licenses/LICENSE") for name in names)


REAL_SLICES = slice(130, 154)  # through both lungs


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with neighbouring slices of a real chest, each in a Frame of Reference of its own."""
    folder = tmp_path_factory.mktemp("chest")
    paths = list(shared("data", "ct_chest_lidc_0314").glob("*.dcm"))
    position = {path: pydicom.dcmread(path, specific_tags=["ImagePositionPatient"]) for path in paths}
    for path in sorted(paths, key=lambda path: float(position[path].ImagePositionPatient[2]))[REAL_SLICES]:
        shutil.copy(path, folder)
    return folder


def test_the_demo_of_the_installed_wheel_and_another_one_of_a_real_study(
    installed: dict[str, str], chest: Path, tmp_path: Path
) -> None:
    where = run(["models", "--set", "models.lung_ct.bundle=builtin:lung_ct", "--config", "none"], installed, tmp_path)
    assert where.returncode == 2
    done = run(["demo", "--out", "results"], installed, tmp_path)
    assert done.returncode == 0, done.stderr
    first = sorted((tmp_path / "results").glob("*.dcm"))
    assert sorted(pydicom.dcmread(path).Modality for path in first) == ["SEG", "SR"]
    assert len(list((tmp_path / "results").glob("lung_ct-*.png"))) == 6
    assert len(list((tmp_path / "results").iterdir())) == 9
    for words in ("received 208 of 208", "analysing", "Right lung\tVolume", "Left lung\tVolume"):
        assert words in done.stdout
    by_position = ["--set", "geometry.frame_of_reference=by_position"]
    again = run(["demo", "--study", str(chest), "--out", "results", *by_position], installed, tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "results").glob("*.dcm"))) == 2
    assert not [path for path in first if path.exists()]  # what the first demo wrote is gone
    assert len(list((tmp_path / "results").iterdir())) == 9


def test_the_demo_of_a_real_study_says_why_it_refuses(installed: dict[str, str], chest: Path, tmp_path: Path) -> None:
    refused = run(["demo", "--study", str(chest)], installed, tmp_path)
    assert refused.returncode == 1
    assert "InconsistentFrameOfReference" in refused.stderr
    assert "24 Frames of Reference" in refused.stderr
    assert 'geometry.frame_of_reference = "by_position" accepts' in refused.stderr
    assert not list((tmp_path / "hilum-demo").glob("*.dcm"))


@pytest.mark.parametrize("command", ["serve", "studies", "show 1.2", "echo pacs", "models", "doctor", "send --to x ."])
def test_a_missing_configuration_is_one_line_and_status_2(command: str, tmp_path: Path) -> None:
    done = subprocess.run([HILUM, *command.split()], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "config.toml: the configuration file is missing; copy config.toml" in done.stderr


def test_a_port_that_is_taken_and_an_unknown_role_are_named(tmp_path: Path) -> None:
    import socket

    (tmp_path / "config.toml").write_text('[node]\nbind = "127.0.0.1"\n')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = f"node.port={taken.getsockname()[1]}"
        done = subprocess.run(
            [HILUM, "serve", "--set", port], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert "choose another port" in done.stderr.lower()
    role = subprocess.run([HILUM, "serve", "--role", "x"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert role.returncode == 2
    assert "the roles are receiver, indexer, archivist, keeper, sender" in role.stderr
