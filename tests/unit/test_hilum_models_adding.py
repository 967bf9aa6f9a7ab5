"""Adding a model: what a person is shown, the entry that is written, and what is refused with the file untouched."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from hilum.config import load
from hilum.models.adding import run_add
from hilum.planning import read_cards
from inference.catalog import digest_of
from study.errors import BundleInvalid, ConfigError
from tests.support.bundles import zoo_bundle

NETWORK = "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x\n"
CONFIG = """\
# Ours.
[node]
port = 4242  # as agreed

[[models]]
name = "lung_ct"
bundle = "builtin:lung_ct"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(CONFIG)
    return file


def spleen(folder: Path, **changes: Any) -> Path:  # noqa: ANN401 - of zoo_bundle
    output = {"type": "image", "format": "segmentation", "channel_def": {"0": "background", "1": "spleen"}}
    return zoo_bundle(folder, **({"network": NETWORK, "output": output} | changes))


def test_the_entry_has_name_bundle_and_digest_and_the_model_is_known(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = spleen(tmp_path / "bundles" / "Spleen CT v0.3")
    run_add(config, str(bundle), None, replace=False)
    digest = digest_of(bundle)
    entry = f'[[models]]\nname = "Spleen_CT_v0_3"\nbundle = "bundles/Spleen CT v0.3"\ndigest = "{digest}"\n'
    assert config.read_text() == f"{CONFIG}\n{entry}"
    card = read_cards(load(config, environment={}))["Spleen_CT_v0_3"]
    assert (card.digest, card.objection) == (digest, None)
    said = capsys.readouterr().out
    assert f"added Spleen_CT_v0_3 in {config}; restart hilum serve to run it" in said


def test_a_person_is_shown_what_the_bundle_is_and_does(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = spleen(tmp_path / "spleen", metadata={"name": "Spleen", "task": "Find\x1b[2K the spleen"})
    (bundle / "models" / "model.pt").write_bytes(b"0" * 2_340_000)
    run_add(config, str(bundle), "spleen", replace=False)
    said = capsys.readouterr().out
    for words in (
        "spleen: Spleen\n",
        r"task      Find\x1b[2K the spleen",
        "version   0.3.1",
        'licence   nobody\'s (LICENSE: "MIT")',
        "input     image: CT, 1 channel(s)",
        "kind      segmentation",
        "takes     Modality CT\n",
        "gives     1 Spleen: 78961009 SCT Spleen",
        "! configs/inference.json  imports::1 = $import os  <- import",
        "  configs/inference.json  network_def::_target_ = scripts.net.Net\n",
        "  scripts/net.py  imports torch\n",
        "  models/model.pt  2.3 MB",
        f"digest    {digest_of(bundle)}",
    ):
        assert words in said
    assert "\x1b" not in said


def test_a_label_that_nobody_knows_is_marked_and_a_hint_says_what_to_write(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = {"type": "image", "format": "segmentation", "channel_def": {"0": "background", "1": "zorblax"}}
    run_add(config, str(spleen(tmp_path / "odd", output=output)), None, replace=False)
    said = capsys.readouterr().out
    assert re.search(r"1 zorblax: 85756007 SCT Tissue .*\(generic code\)", said)
    assert re.search(r"^hint: zorblax: .*\[\[models.segments\]\]", said, re.MULTILINE)


def test_a_bundle_elsewhere_is_named_by_its_whole_path(tmp_path: Path, config: Path) -> None:
    home = tmp_path / "etc"
    home.mkdir()
    file = home / "config.toml"
    file.write_text(CONFIG)
    bundle = spleen(tmp_path / "spleen")
    run_add(file, str(bundle), None, replace=False)
    assert load(file, environment={}).models["spleen"].bundle == str(bundle)


def test_a_name_that_is_there_is_refused_and_replacing_takes_the_new_digest_alone(tmp_path: Path, config: Path) -> None:
    bundle = spleen(tmp_path / "spleen")
    run_add(config, str(bundle), None, replace=False)
    tables = '[models.select]  # ours\nbody_part = ["ABDOMEN"]\n'
    config.write_text(f"{config.read_text()}title = 'Milz'  # for the ward\n{tables}")
    before, old = config.read_text(), digest_of(bundle)
    (bundle / "scripts" / "net.py").write_text(f"{NETWORK}# changed\n")
    with pytest.raises(ConfigError, match=r"models\.spleen is there already; --replace approves .* --name NAME adds"):
        run_add(config, str(bundle), None, replace=False)
    assert config.read_text() == before
    run_add(config, str(bundle), None, replace=True)
    assert config.read_text() == before.replace(old, digest_of(bundle))
    assert read_cards(load(config, environment={}))["spleen"].objection is None


def test_what_the_site_says_in_the_entry_counts_when_it_is_replaced(tmp_path: Path, config: Path) -> None:
    bundle = spleen(tmp_path / "spleen", modality="", output={"type": "image", "format": "segmentation"})
    said = '[models.select]\nmodality = "MR"\n[[models.segments]]\nvalue = 1\nlabel = "Spleen"\n'
    config.write_text(f'{CONFIG}[[models]]\nname = "spleen"\nbundle = "spleen"\n{said}')  # as before digests
    with pytest.raises(ConfigError, match="hilum models add spleen --name spleen --replace"):
        load(config, environment={})
    run_add(config, str(bundle), None, replace=True)
    card = read_cards(load(config, environment={}))["spleen"]
    assert (card.rule.modality, card.digest) == (("MR",), digest_of(bundle))


def test_replacing_what_is_not_there_is_refused_with_what_is(tmp_path: Path, config: Path) -> None:
    with pytest.raises(ConfigError, match=r"no models\.splen to replace \(there: lung_ct\)"):
        run_add(config, str(spleen(tmp_path / "spleen")), "splen", replace=True)
    assert config.read_text() == CONFIG


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 65, "a.b"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, config: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="1 to 64 letters"):
        run_add(config, str(spleen(tmp_path / "spleen")), name, replace=False)


@pytest.mark.parametrize(("folder", "name"), [("__x", "x"), ("Ä ö", "model"), ("a.b c", "a_b_c"), ("9" * 70, "9" * 64)])
def test_the_folder_s_name_is_made_to_fit(tmp_path: Path, config: Path, folder: str, name: str) -> None:
    run_add(config, str(spleen(tmp_path / folder)), None, replace=False)
    assert name in load(config, environment={}).models


def test_what_only_the_site_can_say_is_asked_for_with_lines_to_paste(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = spleen(tmp_path / "spleen", modality="", output={"type": "image", "format": "segmentation"})
    with pytest.raises(BundleInvalid, match=f"Complete the lines above and add them to {config}"):
        run_add(config, str(bundle), None, replace=False)
    assert config.read_text() == CONFIG
    shown, _, lines = capsys.readouterr().out.partition("\n\n")
    assert "! configs/inference.json  imports::1 = $import os  <- import" in shown  # who pastes the digest approves it
    assert f'[[models]]\nname = "spleen"\nbundle = "spleen"\ndigest = "{digest_of(bundle)}"\n' in lines
    completed = lines.replace('modality = "..."', 'modality = "MR"').replace('label = "..."', 'label = "Spleen"')
    completed = completed.replace('["...", "SCT", "..."]', '["78961009", "SCT", "Spleen"]')
    config.write_text(f"{CONFIG}\n{completed}")
    card = read_cards(load(config, environment={}))["spleen"]
    assert (card.rule.modality, card.segments[0].property_type.value, card.objection) == (("MR",), "78961009", None)


@pytest.mark.parametrize(
    ("output", "metadata", "expected"),
    [
        (None, {"network_data_format": {"inputs": {"image": {"modality": "CT"}}, "outputs": {"pred": {"type": "odd"}}}},
         ['kind = "segmentation"']),
        ({"type": "probabilities"}, {"task": "classification"}, ["[[models.classes]]"]),
    ],
)  # fmt: skip
def test_the_lines_to_paste_are_those_that_are_missing(
    tmp_path: Path,
    config: Path,
    capsys: pytest.CaptureFixture[str],
    output: Any,  # noqa: ANN401
    metadata: Any,  # noqa: ANN401
    expected: list[str],
) -> None:
    with pytest.raises(BundleInvalid, match="Complete the lines above"):
        run_add(config, str(spleen(tmp_path / "spleen", output=output, metadata=metadata)), None, replace=False)
    said = capsys.readouterr().out
    assert [words for words in (*expected, "[models.select]") if words in said] == expected


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (
            {"task": "detection of nodules", "network_data_format": {"outputs": {"pred": {"type": "object"}}}},
            "the output",
        ),
        ({"network_data_format": {"inputs": {"t1": {"modality": "MR"}, "t2": {}}}}, r"2 inputs \(t1, t2\)"),
        ({"version": ""}, 'no "version"'),
        ({"hilum": {"selct": {}}}, "selct"),
    ],
)
def test_a_bundle_that_no_words_mend_is_refused_without_lines_to_paste(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], metadata: dict[str, Any], words: str
) -> None:
    with pytest.raises(BundleInvalid, match=words):
        run_add(config, str(spleen(tmp_path / "spleen", metadata=metadata)), None, replace=False)
    assert "[[models]]" not in capsys.readouterr().out
    assert config.read_text() == CONFIG


def test_a_link_out_of_the_bundle_a_missing_folder_and_a_builtin_are_refused(tmp_path: Path, config: Path) -> None:
    bundle = spleen(tmp_path / "spleen")
    (bundle / "models" / "model.pt").symlink_to(config)
    with pytest.raises(BundleInvalid, match=r"models/model\.pt is a link out of the bundle"):
        run_add(config, str(bundle), None, replace=False)
    with pytest.raises(BundleInvalid, match="is no folder"):
        run_add(config, str(tmp_path / "nowhere"), None, replace=False)
    with pytest.raises(ConfigError, match=r'ships with the node .* name = "lung_ct" bundle = "builtin:lung_ct"'):
        run_add(config, "builtin:lung_ct", None, replace=False)
    assert config.read_text() == CONFIG


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "configuration file is missing; copy config.toml"),
        (b"[node", "not valid TOML"),
        (b"\xff", "not valid TOML"),
        (b"models = 1\n", "must be a list of tables"),
    ],
)
def test_a_configuration_that_can_not_be_read_is_named_before_anything_else(
    tmp_path: Path, config: Path, content: bytes | None, words: str
) -> None:
    config.unlink() if content is None else config.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        run_add(config, str(spleen(tmp_path / "spleen")), None, replace=False)
    assert str(config) in caught.value.words


def test_what_was_wrong_before_keeps_nobody_from_adding_and_is_told(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(CONFIG.replace("port", "prot"))
    with pytest.raises(ConfigError) as caught:
        run_add(config, str(spleen(tmp_path / "spleen")), None, replace=False)
    assert caught.value.words == f"{config}: node.prot: unknown key; did you mean port?"
    assert "added spleen" in capsys.readouterr().out
    assert 'name = "spleen"' in config.read_text()


def test_what_would_make_the_configuration_worse_is_not_written(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = spleen(tmp_path / "spleen")
    monkeypatch.setenv("HILUM_MODELS__SPLEEN__SEGMENTS", '[{value=1, label="a"}, {value=1, label="b"}]')
    with pytest.raises(ConfigError) as caught:
        run_add(config, str(bundle), None, replace=False)
    first, second = caught.value.words.splitlines()
    assert first == "nothing was written, since this would be wrong:"
    assert second == f"{config}: models.spleen: segments: each value may occur once only"
    assert config.read_text() == CONFIG
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "spleen"]


def test_mode_and_links_of_the_file_stay_and_no_draft_is_left(tmp_path: Path, config: Path) -> None:
    config.chmod(0o640)
    shown = tmp_path / "etc" / "config.toml"
    shown.parent.mkdir()
    shown.symlink_to(config)
    run_add(shown, str(spleen(tmp_path / "spleen")), None, replace=False)
    assert shown.is_symlink()
    assert config.stat().st_mode & 0o777 == 0o640
    assert load(config, environment={}).models["spleen"].bundle == "spleen"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "etc", "spleen"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_the_file_s_owner_stays(tmp_path: Path, config: Path) -> None:
    os.chown(config, 4711, 4712)
    run_add(config, str(spleen(tmp_path / "spleen")), None, replace=False)
    assert (config.stat().st_uid, config.stat().st_gid) == (4711, 4712)


def test_line_ends_stay_in_the_file(tmp_path: Path, config: Path) -> None:
    config.write_bytes(CONFIG.replace("\n", "\r\n").encode())
    run_add(config, str(spleen(tmp_path / "spleen")), None, replace=False)
    written = config.read_bytes()
    assert written.count(b"\n") == written.count(b"\r\n") == CONFIG.count("\n") + 5


def test_a_bundle_s_own_words_are_no_lines_of_the_configuration(tmp_path: Path, config: Path) -> None:
    folder = tmp_path / 'a"]\n[[peers]]'
    with pytest.raises(BundleInvalid, match="can not be written; rename it"):
        run_add(config, str(spleen(folder)), None, replace=False)
    quoted = tmp_path / 'a"b\\c'
    run_add(config, str(spleen(quoted)), "quoted", replace=False)
    assert load(config, environment={}).models["quoted"].bundle == 'a"b\\c'


def test_nothing_of_the_bundle_is_run_by_adding(tmp_path: Path, config: Path) -> None:
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\n{NETWORK}"
    bundle = spleen(tmp_path / "spleen", network=code, config={"x": f"$open({str(ran)!r}, 'w')"})
    (bundle / "scripts" / "__init__.py").write_text(code)
    run_add(config, str(bundle), None, replace=False)
    assert not ran.exists()
    assert json.loads((bundle / "configs" / "inference.json").read_text())["x"].startswith("$open")
