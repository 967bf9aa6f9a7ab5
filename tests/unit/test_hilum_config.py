"""Settings: file under environment under flags, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from hilum.config import Settings, load
from study.errors import ConfigError
from study.forms import Form, Wish
from tests.support.peers import REPOSITORY

SHIPPED = REPOSITORY / "config.toml"


PEER = '[[peers]]\nname = "p"\nae_title = "X"\nhost = "h"\nport = 1\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_the_shipped_file_is_valid_and_says_what_the_defaults_are() -> None:
    settings = load(SHIPPED, environment={})
    assert (settings.node.ae_title, settings.node.port, settings.node.receivers) == ("HILUM", 11112, 2)
    assert settings.node == load(None, environment={}, file_is_optional=True).node
    assert settings.peers["pacs"].results == ("seg", "sr", "refusal")
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
    model = f'[[models]]\nname = "m"\nbundle = "bundles/m"\ndigest = "{"0" * 64}"\n'
    path = write(tmp_path, f'[node]\ndata_dir = "store"\n{model}')
    monkeypatch.chdir("/")
    settings = load(path, environment={})
    assert settings.data_dir == tmp_path / "store"
    assert settings.bundle_location(settings.models["m"]) == str(tmp_path / "bundles" / "m")
    assert settings.database_url == f"sqlite:///{tmp_path / 'store' / 'hilum.db'}"


def test_settings_travel_to_child_processes_unchanged(tmp_path: Path) -> None:
    described = """
[models.select]
slices = [5, ""]
uneven_spacing = "resample"
[[models.segments]]
value = 1
label = "Liver"
type = ["10200004", "SCT", "Liver"]
colour = "#009e73"
"""
    settings = load(write(tmp_path, SHIPPED.read_text() + described), ["node.port=9"], {})
    received = Settings.model_validate_json(settings.to_json())
    assert received == settings
    for name, model in settings.models.items():
        assert received.models[name].model_fields_set == model.model_fields_set


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
        (f'{PEER}results = ["seg", "seg_labelmap"]\n', [], {}, "{file}: peers.p: results names seg and seg_labelmap"),
        (f'{PEER}results = ["sr_segments"]\n', [], {}, "{file}: peers.p: sr_segments in results refers to a Segm"),
        (f'{PEER}results = ["sr", "rejection"]\n', [], {}, "{file}: peers.p: rejection is no form of a result"),
        (f'{PEER}results = ["sgm"]\n', [], {}, "{file}: peers.p.results entry 1: input should be 'seg', 'seg_label"),
        (
            f'{PEER}only_models = ["lung"]\n',
            [],
            {},
            "{file}: peers.p: only_models: there is no model lung; there are: none",
        ),
        (f'{PEER}only_from = ["CT9"]\n', [], {}, "{file}: peers.p: only_from: no peer has the name or AE title CT9"),
        (f"{PEER}transfer_syntaxes = []\n", [], {}, "{file}: peers.p: transfer_syntaxes is empty; write"),
        (f"{PEER}seg_max_frames = 0\n", [], {}, "{file}: peers.p.seg_max_frames: input should be greater"),
        (
            f'{PEER}series_description_prefix = "ü"\n',
            [],
            {},
            "{file}: peers.p.series_description_prefix: is at most",
        ),
        (f"{PEER}only_from = []\n", [], {}, "{file}: peers.p.only_from: "),
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


MODEL = '[[models]]\nname = "m"\nbundle = "builtin:lung_ct"\n'
SELECT = f"{MODEL}[models.select]\n"
SEGMENT = f'{MODEL}[[models.segments]]\nvalue = 1\nlabel = "Liver"\n'


@pytest.mark.parametrize(
    ("text", "assignments", "expected"),
    [
        (f'{MODEL}titel = "x"\n', [], "{file}: models.m.titel: unknown key; did you mean title?"),
        (f'{SELECT}modalty = "MR"\n', [], "{file}: models.m.select.modalty: unknown key; did you mean modality?"),
        (f"{SEGMENT}colr = 1\n", [], "{file}: models.m.segments entry 1: colr: unknown key; did you mean colour?"),
        (
            f"{MODEL}[[models.segments]]\nvalue = 1\n",
            [],
            "{file}: models.m.segments entry 1: label: is missing; add it",
        ),
        (
            f"{SEGMENT}[[models.segments]]\nvalue = 0\nlabel = 'x'\n",
            [],
            "{file}: models.m.segments entry 2: value: input should be greater than or equal to 1 (given: 0)",
        ),
        (
            f'{SEGMENT}type = ["10200004", "SCT"]\n',
            [],
            '{file}: models.m.segments entry 1: type: a code is three texts: ["value", "scheme", "meaning"] (given: ',
        ),
        (
            f'{SEGMENT}type = ["{"1" * 17}", "SCT", "Liver"]\n',
            [],
            "{file}: models.m.segments entry 1: type: the value of a code is printable ASCII of at most 16 characters",
        ),
        (
            f'{SEGMENT}colour = "red"\n',
            [],
            '{file}: models.m.segments entry 1: colour: must be a list; write "#rrggbb", or three numbers from 0',
        ),
        (
            f"{SEGMENT * 2}"[: -len(SEGMENT)] + '[[models.segments]]\nvalue = 1\nlabel = "x"\n',
            [],
            "{file}: models.m: segments: each value may occur once only",
        ),
        (
            f"{SELECT}slices = [5]\n",
            [],
            '{file}: models.m.select.slices: has too few parts; write [lowest, highest], "" for an open end',
        ),
        (f"{SELECT}slices = [9, 5]\n", [], "{file}: models.m.select.slices: the range runs from 9 down to 5; write [l"),
        (f'{SELECT}form = "cube"\n', [], "{file}: models.m.select.form: input should be 'volume' or 'image'"),
        (f'{MODEL}select = "CT"\n', [], "{file}: models.m.select: is a table; write its keys one by one, as models.m"),
        (f'{MODEL}segments = "liver"\n', [], "{file}: models.m.segments: must be a list"),
        (f'{MODEL}kind = "detection"\n', [], "{file}: models.m.kind: input should be 'segmentation', 'classification'"),
        (f'{MODEL}digest = "abc"\n', [], "{file}: models.m.digest: is 64 small hexadecimal digits; hilum models add"),
        (
            '[[models]]\nname = "m"\nbundle = "b"\n',
            [],
            "{file}: models.m: digest is missing: a bundle is a program, and only one that somebody looked at runs; "
            "hilum models add b --name m --replace shows it",
        ),
        (MODEL, ["models.m.select.modalty=MR"], "--set models.m.select.modalty: unknown key; did you mean modality?"),
        (MODEL, ["models.m.slect.modality=MR"], "--set models.m.slect.modality: unknown key; did you mean select?"),
        (
            MODEL,
            ["models.m.select=MR"],
            "--set models.m.select: is a table; write its keys one by one, as models.m.sel",
        ),
        (
            MODEL,
            ["models.m.select=MR", "models.m.select.modality=MR"],
            "--set models.m.select.modality: models.m.select is given as a whole too; leave out one of the two",
        ),
        (
            MODEL,
            ["models.m.select.modality=MR", "models.m.select=MR"],
            "--set models.m.select: keys within models.m.select are given too; leave out one of the two",
        ),
        (
            MODEL,
            ['models.m.segments=[{value=0, label="x"}]'],
            "--set models.m.segments: entry 1: value: input should be greater than or equal to 1",
        ),
        (MODEL, ["models.m.segments=[{value=1}]"], "--set models.m.segments: entry 1: label: is missing; add it"),
        (MODEL, ["models.n.title=x"], "--set models.n.title: models.n has no bundle; is the name n right?"),
        (f'{SELECT}description_include = ["("]\n', [], "{file}: models.m.select: "),
        (MODEL, ['models.m.select.description_include=["("]'], "--set models.m.select.description_include: "),
        (f'{SELECT}prefer = ["nicest"]\n', [], "{file}: models.m.select: "),
    ],
)
def test_a_mistake_in_what_is_said_of_a_model_is_one_line_with_key_and_remedy(
    tmp_path: Path, text: str, assignments: list[str], expected: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, assignments, {})
    lines = caught.value.words.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(expected.format(file=path))


def test_what_is_said_of_a_model_can_be_set_key_by_key(tmp_path: Path) -> None:
    path = write(tmp_path, f'{SELECT}modality = "CT"\nbody_part = ["CHEST"]\n')
    settings = load(path, ["models.m.select.modality=MR"], {"HILUM_MODELS__M__SELECT__SLICES": '[20, ""]'})
    select = settings.models["m"].select
    assert (select.modality, select.body_part, select.slices) == (("MR",), ("CHEST",), (20.0, None))
    assert settings.models["m"].bundle == "builtin:lung_ct"


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config.toml: the configuration file is missing; copy .* --config FILE"):
        load(tmp_path / "config.toml", environment={})


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "[node]\nport = -1\nreceivers = 0\n")
    with pytest.raises(ConfigError) as caught:
        load(path, environment={})
    assert len(caught.value.words.splitlines()) == 2


def test_rules_say_whose_and_which_results_a_peer_is_sent(tmp_path: Path) -> None:
    text = """
    [[peers]]
    name = "ct"
    ae_title = "CT1"
    [[peers]]
    name = "pacs"
    ae_title = "PACS"
    host = "h"
    port = 1
    results = ["sr", "seg"]
    only_models = ["lung_ct"]
    series_description_prefix = "AI "
    seg_max_frames = 400
    transfer_syntaxes = ["rle"]
    [[peers]]
    name = "research"
    ae_title = "RES"
    host = "h"
    port = 2
    results = ["seg_labelmap"]
    only_from = ["ct", "PACS"]
    [[models]]
    name = "lung_ct"
    bundle = "builtin:lung_ct"
    [[models]]
    name = "other"
    bundle = "builtin:lung_ct"
    """
    settings = load(write(tmp_path, text))
    assert [wish.peer for wish in settings.wishes("lung_ct", {"CT1"})] == ["pacs", "research"]
    assert [wish.peer for wish in settings.wishes("lung_ct", {"MR1"})] == ["pacs"]
    assert [wish.peer for wish in settings.wishes("other", {"MR1", "PACS"})] == ["research"]
    assert settings.wishes("other", {"MR1"}) == ()
    (pacs,) = settings.wishes("lung_ct", {"MR1"})
    assert pacs == Wish("pacs", (Form.SEG, Form.SR), "AI ", most_frames=400, compressed=True)
    assert Settings.model_validate_json(settings.to_json()) == settings


def test_tls_is_whole_or_absent() -> None:
    with pytest.raises(ValueError, match="key and authorities lacking"):
        Settings.model_validate({"tls": {"port": 2762, "certificate": "hilum.pem"}})
    called = {"name": "pacs", "ae_title": "PACS", "host": "pacs", "port": 104, "tls": True}
    with pytest.raises(ValueError, match=r"peers\.pacs: tls: needs certificate, key and authorities"):
        Settings.model_validate({"peers": {"pacs": called}})


def test_peers_over_tls_are_called_with_our_identity_in_every_process(tmp_path: Path) -> None:
    files = {"certificate": "hilum.pem", "key": "hilum.key", "authorities": "ca.pem"}
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "pacs", "port": 104, "tls": True}
    plain = {"name": "plain", "ae_title": "PLAIN", "host": "plain", "port": 104}
    settings = Settings.model_validate({"tls": files, "peers": {"pacs": pacs, "plain": plain}, "base_dir": tmp_path})
    elsewhere = Settings.model_validate_json(settings.to_json())
    for each in (settings, elsewhere):
        identity = each.peers["pacs"].identity
        assert identity is not None
        assert identity.certificate == tmp_path.resolve() / "hilum.pem"
        assert each.peers["plain"].identity is None
