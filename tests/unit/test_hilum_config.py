"""Settings: file under environment under flags, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from hilum.config import Settings, load
from study.errors import ConfigError
from tests.support.peers import REPOSITORY

SHIPPED = REPOSITORY / "config.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_the_shipped_file_is_valid_and_says_what_the_defaults_are() -> None:
    settings = load(SHIPPED, environment={})
    assert (settings.node.ae_title, settings.node.port, settings.node.receivers) == ("HILUM", 11112, 2)
    assert settings.node == load(None, environment={}, file_is_optional=True).node
    assert settings.peers["pacs"].results == ("seg", "sr")
    assert settings.models["lung_ct"].bundle == "builtin:lung_ct"
    assert settings.data_dir == REPOSITORY / "var"


def test_flag_over_environment_over_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[node]\nport = 1\nreceivers = 3\n[study]\nquiet_seconds = 5\n")
    environment = {"HILUM_NODE__PORT": "2", "HILUM_NODE__RECEIVERS": "4", "PATH": "x"}
    settings = load(path, ["node.port=3"], environment)
    assert (settings.node.port, settings.node.receivers, settings.study.quiet_seconds) == (3, 4, 5)


def test_lists_are_addressed_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, '[[peers]]\nname = "Pacs"\nae_title = "PACS"\nhost = "h"\nport = 1\nresults = ["sr"]\n')
    settings = load(path, ["peers.pacs.port=7"], {"HILUM_PEERS__PACS__RESULTS": '["seg"]'})
    assert settings.peers["Pacs"].port == 7
    assert settings.peers["Pacs"].results == ("seg",)


def test_relative_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, '[node]\ndata_dir = "store"\n[[models]]\nname = "m"\nbundle = "bundles/m"\n')
    monkeypatch.chdir("/")
    settings = load(path, environment={})
    assert settings.data_dir == tmp_path / "store"
    assert settings.bundle_location(settings.models["m"]) == str(tmp_path / "bundles" / "m")
    assert settings.database_url == f"sqlite:///{tmp_path / 'store' / 'hilum.db'}"


def test_settings_travel_to_child_processes_unchanged() -> None:
    settings = load(SHIPPED, ["node.port=9"], {})
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("text", "assignments", "environment", "expected"),
    [
        ("[node]\nprot = 1\n", [], {}, "{file}: node.prot: unknown key; did you mean port?"),
        ("[nodes]\nport = 1\n", [], {}, "{file}: nodes: unknown key; did you mean node?"),
        ("", ["node.prot=1"], {}, "--set node.prot: unknown key; did you mean port?"),
        ("", ["port=1"], {}, "--set port: unknown key"),
        ("", ["node.port"], {}, "--set node.port: write it as --set section.key=value"),
        ("", ["peers.pacs=1"], {}, "--set peers.pacs: write it as peers.NAME.key"),
        ("", ["peers.pcas.port=1"], {}, "--set peers.pcas.port: peers.pcas has no ae_title; is the name pcas right?"),
        ("", [], {"HILUM_FOO": "1"}, "HILUM_FOO: unknown key"),
        ("", [], {"HILUM_NODE__PORT": "x"}, "HILUM_NODE__PORT: input should be a valid integer"),
        ("", [], {"HILUM_PEERS__P__RESULTS": "[1"}, "HILUM_PEERS__P__RESULTS: is not a valid value"),
        ('[node]\nae_title = "SEVENTEEN LETTERS"\n', [], {}, "{file}: node.ae_title: an AE title has 1 to 16"),
        ('[node]\nae_title = "A\\\\B"\n', [], {}, "{file}: node.ae_title: an AE title has printable ASCII"),
        ("[node]\nport = 70000\n", [], {}, "{file}: node.port: input should be less than or equal to 65535"),
        ('[[peers]]\nae_title = "X"\n', [], {}, '{file}: peers: entry 1 has no name; add name = "..."'),
        ('[[peers]]\nname = "p"\n', [], {}, "{file}: peers.p.ae_title: is missing; add it"),
        (
            '[[peers]]\nname = "p"\nae_title = "X"\nhost = "h"\n',
            [],
            {},
            "{file}: peers.p: host and port belong together",
        ),
        ('[[peers]]\nname = "p"\nae_title = "X"\nresults = ["sr"]\n', [], {}, "{file}: peers.p: results need a host"),
        (
            '[[peers]]\nname = "p"\nae_title = "X"\n[[peers]]\nname = "p"\n',
            [],
            {},
            "{file}: peers.p: the name occurs twice",
        ),
        ('peers = "x"\n', [], {}, "{file}: peers: must be a list of tables; write [[peers]]"),
        ('[[models]]\nname = "m"\n', [], {}, "{file}: models.m.bundle: is missing; add it"),
        (
            '[geometry]\nframe_of_reference = "any"\n',
            [],
            {},
            "{file}: geometry.frame_of_reference: input should be 'strict'",
        ),
        ('[database]\nurl = "mysql://x"\n', [], {}, "{file}: database.url: string should match pattern"),
        ('base_dir = "/"\n', [], {}, "{file}: base_dir: unknown key"),
        ("[node\n", [], {}, "{file}: is not valid TOML"),
    ],
)
def test_a_mistake_is_one_line_that_names_source_key_and_remedy(
    tmp_path: Path, text: str, assignments: list[str], environment: dict[str, str], expected: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, assignments, environment)
    lines = caught.value.words.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(expected.format(file=path))


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config.toml: the configuration file is missing; copy .* --config FILE"):
        load(tmp_path / "config.toml", environment={})


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "[node]\nport = -1\nreceivers = 0\n")
    with pytest.raises(ConfigError) as caught:
        load(path, environment={})
    assert len(caught.value.words.splitlines()) == 2
