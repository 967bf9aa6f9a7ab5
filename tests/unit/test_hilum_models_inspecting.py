"""What a look at a bundle finds, and that nothing of the bundle is run by looking."""

from __future__ import annotations

import json
import py_compile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hilum.models.inspecting import Look, Saying, Script, look_at
from study.errors import BundleInvalid


def bundle(folder: Path, config: object = None, files: Mapping[str, str] | None = None) -> Path:
    """Return a bundle's folder with an inference.json and further files."""
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(config or {}))
    for name, content in (files or {}).items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    return folder


def sayings(folder: Path, config: object) -> dict[str, Saying]:
    return {saying.place: saying for saying in look_at(bundle(folder, config)).sayings}


def test_imports_expressions_and_components_of_others_are_listed_and_others_are_not(tmp_path: Path) -> None:
    found = sayings(
        tmp_path / "toy",
        {
            "imports": ["$import os"],
            "device": "$torch.device('cpu')",
            "network_def": {"_target_": "scripts.net.Net", "channels": 1},
            "loss": {"_target_": "torch.nn.MSELoss"},
            "chain": {"_target_": "Compose", "transforms": [{"_target_": "monai.transforms.ScaleIntensityd"}]},
            "other": ["@device", "%chain", "a text"],
        },
    )
    assert {place: (saying.text, saying.marks) for place, saying in found.items()} == {
        "imports::0": ("$import os", ("import",)),
        "device": ("$torch.device('cpu')", ()),
        "network_def::_target_": ("scripts.net.Net", ()),
    }


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("$import subprocess", "import"),
        ("$os.system('rm x')", "os.system"),
        ("$os.path.join('a', 'b')", "os.path.join"),
        ("$eval('1')", "eval"),
        ("$[f(x) for f in (eval,)]", "eval"),
        ("$exec(x)", "exec"),
        ("$open('/etc/passwd').read()", "open"),
        ("$subprocess.run(x)", "subprocess"),
        ("$torch.load('model.pt')", "torch.load"),
        ("$().__class__.__base__", "__class__"),
        ("$getattr(x, 'ev' + 'al')", "getattr"),
        ("$\uff45\uff56\uff41\uff4c('1')", "eval"),  # full-width letters, which Python reads as eval
        ("$torch.hub.download_url_to_file(x, y)", "torch.hub"),
        ("%/etc/secrets.json::key", "another file"),
        ("%other.yaml", "another file"),
    ],
)
def test_what_reaches_beyond_arithmetic_is_marked(tmp_path: Path, text: str, mark: str) -> None:
    assert mark in sayings(tmp_path / "toy", {"x": {"y": [text]}})["x::y::0"].marks


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "eval", "subprocess.Popen", "torch.hub.load", "x.y.Z"]
)
def test_a_component_that_is_no_library_s_object_is_listed(tmp_path: Path, target: str) -> None:
    assert sayings(tmp_path / "toy", {"x": {"_target_": target}})["x::_target_"].text == target


@pytest.mark.parametrize("text", ["$@network.eval()", "$@root + '/eval'", "$1 / 255", "$@reopened.importance"])
def test_what_nearly_every_bundle_has_is_not_marked(tmp_path: Path, text: str) -> None:
    assert sayings(tmp_path / "toy", {"x": text})["x"].marks == ()


def test_the_configuration_of_inference_comes_first_and_yaml_is_read(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "toy", {"a": "$1"})
    (folder / "configs" / "evaluate.yaml").write_text("imports:\n  - $import os\nx: {_target_: scripts.y.Z}\n")
    found = look_at(folder).sayings
    assert [(saying.file, saying.text) for saying in found] == [
        ("configs/inference.json", "$1"),
        ("configs/evaluate.yaml", "$import os"),
        ("configs/evaluate.yaml", "scripts.y.Z"),
    ]


def test_yaml_that_refers_to_itself_or_grows_without_end_is_gone_through_once(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "toy")
    levels = "\n".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 30))
    (folder / "configs" / "bomb.yaml").write_text(f"a0: &a0 ['$import os']\n{levels}\nself: &self [*self]\n")
    assert [saying.place for saying in look_at(folder).sayings] == ["a0::0"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("configs/bad.json", b"{", "is no JSON"),
        ("configs/deep.json", b"[" * 100_000, "is no JSON"),
        ("configs/object.yaml", b"x: !!python/object/apply:os.system ['touch ran']", "is no YAML"),
        ("configs/latin.yml", b"x: \xe4", "is no UTF-8 text"),
        ("scripts/bad.py", b"def", "is no Python"),
        ("scripts/nul.py", b"a = 1\0", "is no Python"),
        ("LICENSE", b"\xff\xfe", "is no UTF-8 text"),
    ],
)
def test_a_file_that_can_not_be_read_is_named_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = bundle(tmp_path / "toy", files={"scripts/__init__.py": ""})
    (folder / name).write_bytes(content)
    ((file, why),) = look_at(folder).unread
    assert (file, words in why) == (name, True)
    assert not (tmp_path / "ran").exists()


def test_scripts_are_parsed_and_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    code = f"import os, numpy.linalg\nfrom .other import x\nfrom torch import nn\nopen({str(ran)!r}, 'w')\n'\\d'\n"
    found = look_at(bundle(tmp_path / "toy", files={"scripts/net.py": code}))
    assert found.scripts == [
        Script("scripts/net.py", (".other", "numpy.linalg", "os", "torch"), ("os", "open")),
    ]
    assert not ran.exists()


def test_weights_licences_compiled_code_and_sizes_are_told(tmp_path: Path) -> None:
    folder = bundle(
        tmp_path / "toy",
        files={"LICENSE": "\n  MIT License  \nmore", "models/notes": "x", "scripts/a.py": "1"},
    )
    (folder / "models" / "model.pt").write_bytes(b"0" * 1000)
    (folder / "extra.onnx").write_bytes(b"0" * 10)
    py_compile.compile(str(folder / "scripts" / "a.py"))  # into __pycache__, which counts for nothing
    py_compile.compile(str(folder / "scripts" / "a.py"), cfile=str(folder / "scripts" / "b.pyc"))
    (folder / "fast.so").write_bytes(b"")
    found = look_at(folder)
    assert found.licences == [("LICENSE", "MIT License")]
    assert found.weights == [("extra.onnx", 10), ("models/model.pt", 1000), ("models/notes", 1)]
    assert found.compiled == ["fast.so", "scripts/b.pyc"]
    assert found.files == 8
    counted = [file for file in folder.rglob("*") if file.is_file() and file.parent.name != "__pycache__"]
    assert found.size == sum(file.stat().st_size for file in counted)


@pytest.mark.parametrize("what", ["file", "folder", "nothing"])
def test_a_link_out_of_the_bundle_is_refused_with_its_name(tmp_path: Path, what: str) -> None:
    folder = bundle(tmp_path / "toy", files={"models/x": ""})
    outside = tmp_path / "outside"
    if what == "file":
        outside.write_text("weights")
    elif what == "folder":
        outside.mkdir()
    (folder / "models" / "link").symlink_to(outside)
    with pytest.raises(BundleInvalid, match=r"models/link is a link out of the bundle, to .*outside; put a copy"):
        look_at(folder)


def test_links_within_the_bundle_and_to_themselves_are_taken(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "toy", files={"models/model.pt": "x"})
    (folder / "models" / "latest.pt").symlink_to("model.pt")
    (folder / "again").symlink_to("models")
    (folder / "loop").symlink_to("loop")
    assert look_at(folder).weights == [("models/latest.pt", 1), ("models/model.pt", 1)]


def test_a_bundle_behind_a_link_is_looked_at(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "v2", {"x": "$1"})
    (tmp_path / "current").symlink_to(folder)
    found = look_at(tmp_path / "current")
    assert isinstance(found, Look)
    assert [saying.place for saying in found.sayings] == ["x"]


def test_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    empty: Any = look_at(tmp_path)
    assert empty == Look()
