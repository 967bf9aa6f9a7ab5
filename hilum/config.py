"""config.toml, HILUM_* variables and --set flags become one frozen `Settings`; what is wrong is one clear line.

A flag wins over the environment, the environment over the file. Lists of tables (``[[peers]]``, ``[[models]]``) are
addressed by their ``name`` everywhere: ``peers.pacs.port``, ``HILUM_PEERS__PACS__PORT``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hilum.layers import Layer, LayerSource, environment_layer, file_layer, flag_layer
from hilum.mistakes import explain
from inference.catalog import is_builtin
from inference.description import ModelDescription, texts
from inference.options import Precision
from study.errors import ConfigError
from study.forms import SEGMENTATIONS, Form, Wish
from study.geometry import FrameOfReferencePolicy
from study.patterns import patterns
from study.uids import ae_title
from study.urgency import UrgencyRule

DEFAULT_FILE = Path("config.toml")

AETitleText = Annotated[str, AfterValidator(ae_title)]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(texts), AfterValidator(patterns)]
_DEVICE: Final = re.compile(r"cpu|cuda:[0-9]{1,2}")
_SUCH_DEVICES: Final = 'is "auto", or a list of devices, as ["cuda:0", "cpu"]'
Port = Annotated[int, Field(ge=0, le=65535)]
TransferSyntax = Literal["explicit", "implicit", "rle"]
_LONGEST_PREFIX: Final = 16
_TRANSFER_SYNTAXES: Final = {
    "explicit": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "rle": "1.2.840.10008.1.2.5",
}


class Section(BaseModel):
    """A table of the configuration: frozen, and an unknown key in it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeSettings(Section):
    """The node on the network, and where it keeps what lasts."""

    ae_title: AETitleText = "HILUM"
    bind: str = "0.0.0.0"  # noqa: S104 - a DICOM node listens to the hospital's network
    port: Port = 11112
    data_dir: Path = Path("var")
    accept: Literal["known", "any"] = "known"
    unknown_sop_classes: bool = True
    receivers: int = Field(default=2, ge=1, le=32)
    max_associations: int = Field(default=64, ge=1, le=500)
    disk_reserve_mb: int = Field(default=1024, ge=0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class DatabaseSettings(Section):
    """Where the index and the ledger are."""

    url: str = Field(default="sqlite", pattern=r"^(sqlite|postgresql\+psycopg://.+)$")


class StudySettings(Section):
    """When a study is complete, and which studies are too old to be analysed."""

    quiet_seconds: float = Field(default=60, gt=0, le=86_400)
    settle_seconds: float = Field(default=2, gt=0, le=3_600)
    max_age_days: int = Field(default=0, ge=0, le=100_000)


class GeometrySettings(Section):
    """What may pass as a volume."""

    frame_of_reference: FrameOfReferencePolicy = FrameOfReferencePolicy.STRICT


def _devices(given: object) -> object:
    if given == "auto":
        return given
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list | tuple) or not listed:
        raise ValueError(_SUCH_DEVICES)
    strange = [each for each in listed if not isinstance(each, str) or not _DEVICE.fullmatch(each)]
    if strange:
        raise ValueError(f"{strange[0]!r} is no device; it {_SUCH_DEVICES}")
    return tuple(listed)


class InferenceSettings(Section):
    """Where and how long models run."""

    devices: Annotated[Literal["auto"] | tuple[str, ...], BeforeValidator(_devices)] = "auto"
    threads: int = Field(default=0, ge=0, le=256)
    deadline_seconds: float = Field(default=900, gt=0)
    attempts: int = Field(default=3, ge=1, le=10)
    memory_mb: int = Field(default=0, ge=0)


class ResultSettings(Section):
    """What is written into every result."""

    disclaimer: str = Field(default="not for diagnostic use", max_length=28, pattern=r"^[ -\[\]-~]*$")
    allow_empty_patient_id: bool = False
    refusal_delay_seconds: float = Field(default=300, ge=0, le=86_400)


class DeliverySettings(Section):
    """How a result that was not taken is tried again."""

    retry_seconds: float = Field(default=5, gt=0)
    retry_max_seconds: float = Field(default=300, gt=0)
    problem_retry_seconds: float = Field(default=900, gt=0)
    commitment_seconds: float = Field(default=300, gt=0, le=604_800)
    commitment_attempts: int = Field(default=3, ge=1, le=100)


def _prefix(text: str) -> str:
    if len(text) > _LONGEST_PREFIX or not re.fullmatch(r"[ -\[\]-~]*", text):
        raise ValueError(f"is at most {_LONGEST_PREFIX} ASCII characters, none of them a backslash")
    return text


class PeerSettings(Section):
    """Another DICOM node: one that may send to us, and, with host and port, one that takes results."""

    name: Name
    ae_title: AETitleText
    host: str = ""
    port: Port = 0
    results: tuple[Form, ...] = ()
    only_models: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    only_from: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    seg_max_frames: int | None = Field(default=None, ge=1)
    sc_max_images: int | None = Field(default=None, ge=1, le=1000)
    transfer_syntaxes: tuple[TransferSyntax, ...] = ("explicit", "implicit")
    series_description_prefix: Annotated[str, AfterValidator(_prefix)] = ""
    analyse: bool = True
    archive: Name | None = None
    scope: Literal["wanted", "sent"] = "wanted"
    retrieve: Literal["auto", "get", "move", "none"] = "auto"
    commitment: bool = False
    vouch: bool = False
    max_associations: int = Field(default=4, ge=1, le=64)

    @model_validator(mode="after")
    def _reachable(self) -> PeerSettings:
        if bool(self.host) != bool(self.port):
            raise ValueError("host and port belong together: give both, or neither for a peer that only sends")
        if self.results and not self.host:
            raise ValueError("results need a host and a port to go to")
        if self.commitment and not self.results:
            raise ValueError("commitment is asked for what a peer is sent; give it results, or leave commitment out")
        if self.vouch and not self.host:
            raise ValueError("vouch needs a host and a port, where the peer is told what we commit ourselves to")
        if Form.REJECTION in self.results:
            raise ValueError(
                "rejection is no form of a result: hilum withdraw sends one to whoever has what it takes back"
            )
        if len(set(self.results)) != len(self.results):
            raise ValueError("results names a form twice")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> PeerSettings:
        segmentations = [form for form in SEGMENTATIONS if form in self.results]
        if len(segmentations) > 1:
            raise ValueError("results names seg and seg_labelmap, which are the same segments twice; choose one")
        if Form.SR_SEGMENTS in self.results and not segmentations:
            raise ValueError("sr_segments in results refers to a Segmentation; add seg or seg_labelmap")
        if not self.transfer_syntaxes:
            raise ValueError('transfer_syntaxes is empty; write ["implicit"] for a peer that takes nothing else')
        return self

    @property
    def address(self) -> str:
        """Return where the peer is called, in words."""
        return f"{self.ae_title}@{self.host}:{self.port}"

    @property
    def transfer_syntax_uids(self) -> frozenset[str]:
        """Return the Transfer Syntaxes that the peer may be offered."""
        return frozenset(_TRANSFER_SYNTAXES[word] for word in self.transfer_syntaxes)

    def wish(self) -> Wish:
        """Return what the peer is to be sent of a result."""
        return Wish(
            peer=self.name,
            forms=tuple(form for form in Form if form in self.results),
            description_prefix=self.series_description_prefix,
            most_frames=self.seg_max_frames,
            most_images=self.sc_max_images,
            compressed="rle" in self.transfer_syntaxes,
        )


def _digest(text: str | None) -> str | None:
    if text is not None and not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError("is 64 small hexadecimal digits; hilum models add PATH --name NAME --replace writes it")
    return text


class ModelSettings(ModelDescription):
    """A model that the node runs: its bundle, the digest that was approved, and what the site says of it."""

    name: Name
    bundle: str = Field(min_length=1)
    digest: Annotated[str | None, AfterValidator(_digest)] = None
    deadline_seconds: float | None = Field(default=None, gt=0)
    deliver: bool = True
    priority: int = Field(default=0, ge=-9, le=9)
    memory_mb: int | None = Field(default=None, ge=1)
    device_memory_mb: int | None = Field(default=None, ge=1)
    cpu_deadline_seconds: float | None = Field(default=None, gt=0)
    precision: Precision | None = None
    compile: bool = False

    @model_validator(mode="after")
    def _approved(self) -> ModelSettings:
        if self.digest is None and not is_builtin(self.bundle):
            raise ValueError(
                "digest is missing: a bundle is a program, and only one that somebody looked at runs; "
                f"hilum models add {self.bundle} --name {self.name} --replace shows it and writes the digest"
            )
        return self


class UrgentSettings(Section):
    """Which studies are analysed before others: all that is said of their images and senders must hold."""

    name: Name
    department: Patterns = ()
    study_description: Patterns = ()
    series_description: Patterns = ()
    requested_priority: Patterns = ()
    only_from: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    priority: int = Field(default=100, ge=1, le=1000)

    @model_validator(mode="after")
    def _says_something(self) -> UrgentSettings:
        if not self.rule(()).conditions and self.only_from is None:
            raise ValueError(
                "says of no study that it is urgent; give department, study_description, series_description, "
                "requested_priority or only_from"
            )
        return self

    def rule(self, calling_ae_titles: Iterable[str]) -> UrgencyRule:
        """Return the rule; `calling_ae_titles` are those that its `only_from` stands for."""
        return UrgencyRule(
            name=self.name,
            priority=self.priority,
            department=self.department,
            study_description=self.study_description,
            series_description=self.series_description,
            requested_priority=self.requested_priority,
            calling_ae_titles=None if self.only_from is None else frozenset(calling_ae_titles),
        )


class Settings(BaseSettings):
    """The whole configuration, validated; `base_dir` is what relative paths count from."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    node: NodeSettings = NodeSettings()
    database: DatabaseSettings = DatabaseSettings()
    study: StudySettings = StudySettings()
    geometry: GeometrySettings = GeometrySettings()
    inference: InferenceSettings = InferenceSettings()
    results: ResultSettings = ResultSettings()
    delivery: DeliverySettings = DeliverySettings()
    peers: dict[Name, PeerSettings] = {}
    models: dict[Name, ModelSettings] = {}
    urgent: dict[Name, UrgentSettings] = {}
    base_dir: Path = Path()

    @model_validator(mode="after")
    def _rules_name_what_there_is(self) -> Settings:
        """Refuse a misspelt rule, which would keep results from a peer in silence."""
        senders = {peer.name for peer in self.peers.values()} | {peer.ae_title for peer in self.peers.values()}
        for peer in self.peers.values():
            if peer.archive is not None and not (peer.archive in self.peers and self.peers[peer.archive].host):
                known = ", ".join(name for name, each in self.peers.items() if each.host) or "none"
                raise ValueError(
                    f"peers.{peer.name}: archive: no peer {peer.archive} has host and port; these have: {known}"
                )
            strange = [name for name in peer.only_models or () if name not in self.models]
            if strange:
                known = ", ".join(self.models) or "none"
                raise ValueError(f"peers.{peer.name}: only_models: there is no model {strange[0]}; there are: {known}")
        places = [(f"peers.{peer.name}", peer.only_from) for peer in self.peers.values()]
        places += [(f"urgent.{entry.name}", entry.only_from) for entry in self.urgent.values()]
        for place, named in places:
            foreign = [name for name in named or () if name not in senders]
            if foreign and self.node.accept == "known":
                known = ", ".join(sorted(senders))
                raise ValueError(
                    f"{place}: only_from: no peer has the name or AE title {foreign[0]}; there are: {known}"
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings' own
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the caller alone; `load` adds the layers."""
        return (init_settings,)

    @property
    def shadow_models(self) -> frozenset[str]:
        """Return the models that run and whose results nobody is sent."""
        return frozenset(model.name for model in self.models.values() if not model.deliver)

    def deadline(self, model: str) -> float:
        """Return how long an analysis by a model may take [s]."""
        own = self.models[model].deadline_seconds if model in self.models else None
        return own or self.inference.deadline_seconds

    @property
    def data_dir(self) -> Path:
        """Return the absolute data directory."""
        return (self.base_dir / self.node.data_dir).resolve()

    @property
    def database_url(self) -> str:
        """Return the URL that SQLAlchemy opens."""
        return f"sqlite:///{self.data_dir / 'hilum.db'}" if self.database.url == "sqlite" else self.database.url

    @property
    def destinations(self) -> tuple[PeerSettings, ...]:
        """Return the peers that are sent results."""
        return tuple(peer for peer in self.peers.values() if peer.results)

    @property
    def archives(self) -> dict[str, tuple[str, ...]]:
        """Return the AE titles of the senders that each archive is asked for, by the archive's name among the peers."""
        found: dict[str, tuple[str, ...]] = {}
        for peer in self.peers.values():
            if peer.archive is not None:
                found[peer.archive] = (*found.get(peer.archive, ()), peer.ae_title)
        return found

    def sender(self, calling_ae_title: str) -> PeerSettings | None:
        """Return the peer that calls by this AE title; None where it is nobody's that the configuration names."""
        return next((peer for peer in self.peers.values() if peer.ae_title == calling_ae_title), None)

    def asks_for_analysis(self, calling_ae_title: str) -> bool:
        """Tell whether what this sender sends is sent for analysis, and not only to be stored."""
        peer = self.sender(calling_ae_title)
        return peer is None or peer.analyse

    @property
    def known_calling_ae_titles(self) -> frozenset[str] | None:
        """Return the AE titles that may call; None: any."""
        return None if self.node.accept == "any" else frozenset(peer.ae_title for peer in self.peers.values())

    def wishes(self, model: str, calling_ae_titles: Collection[str]) -> tuple[Wish, ...]:
        """Return what each peer is to be sent of the results of a model on images that came from these AE titles."""
        return tuple(
            peer.wish()
            for peer in self.destinations
            if (peer.only_models is None or model in peer.only_models)
            and (peer.only_from is None or not self._titles(peer.only_from).isdisjoint(calling_ae_titles))
        )

    @property
    def urgency_rules(self) -> tuple[UrgencyRule, ...]:
        """Return which studies are analysed before others."""
        return tuple(entry.rule(self._titles(entry.only_from or ())) for entry in self.urgent.values())

    def _titles(self, senders: Iterable[str]) -> set[str]:
        """Return the AE titles that names of peers, or AE titles themselves, stand for."""
        return {self.peers[name].ae_title if name in self.peers else name for name in senders}

    def to_json(self) -> str:
        """Return the settings for another process, which reads them by `model_validate_json`.

        What nobody set stays unset: only what an entry of ``[[models]]`` says wins over what its bundle says.
        """
        return self.model_dump_json(exclude_unset=True)

    def bundle_location(self, model: ModelSettings) -> str:
        """Return a model's bundle as an absolute path, or as it is where it names a built-in one."""
        if model.bundle.startswith("builtin:"):
            return model.bundle
        return str((self.base_dir / model.bundle).resolve())


def load(
    file: Path | None = None,
    assignments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    *,
    file_is_optional: bool = False,
) -> Settings:
    """Return the settings of a configuration file, the environment and ``--set`` assignments.

    Parameters
    ----------
    file
        The configuration; ``config.toml`` in the current directory by default.
    assignments
        ``key.key=value``, as given to ``--set``.
    environment
        ``HILUM_*`` variables; the process's own by default.
    file_is_optional
        Whether to go on with the defaults where no file was named.

    Raises
    ------
    ConfigError
        One line for each mistake, naming the source, the key and the remedy.
    """
    path = file or DEFAULT_FILE
    sections = [name for name in Settings.model_fields if name != "base_dir"]
    from_file = Layer({}, {}) if file is None and file_is_optional else file_layer(path)
    layers = (
        flag_layer(assignments, from_file.values, sections),
        environment_layer(os.environ if environment is None else environment, from_file.values, sections),
        from_file,
    )

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *args: object, **kwargs: object
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del args
            own = cast("PydanticBaseSettingsSource", kwargs["init_settings"])
            return (own, *(LayerSource(settings_cls, layer) for layer in layers))

    base_dir = Path.cwd() if file is None and file_is_optional else path.resolve().parent
    try:
        loaded = Loaded(base_dir=base_dir)
    except ValidationError as error:
        raise ConfigError(explain(error, Settings, [layer.names for layer in layers], path)) from None
    return Settings(**{name: getattr(loaded, name) for name in Settings.model_fields})
