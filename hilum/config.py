"""config.toml, HILUM_* variables and --set flags become one frozen `Settings`; what is wrong is one clear line.

A flag wins over the environment, the environment over the file. Lists of tables (``[[peers]]``, ``[[models]]``) are
addressed by their ``name`` everywhere: ``peers.pacs.port``, ``HILUM_PEERS__PACS__PORT``.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hilum.entries import ModelSettings, PeerSettings, UrgentSettings
from hilum.layers import Layer, LayerSource, environment_layer, file_layer, flag_layer
from hilum.mistakes import explain
from hilum.sections import (
    DatabaseSettings,
    DeliverySettings,
    GeometrySettings,
    InferenceSettings,
    Name,
    NodeSettings,
    ResultSettings,
    RetentionSettings,
    StudySettings,
    TLSSettings,
)
from scp.association.tls import Identity
from study.errors import ConfigError
from study.forms import Wish
from study.urgency import UrgencyRule

DEFAULT_FILE = Path("config.toml")


class Settings(BaseSettings):
    """The whole configuration, validated; `base_dir` is what relative paths count from."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    node: NodeSettings = NodeSettings()
    tls: TLSSettings = TLSSettings()
    database: DatabaseSettings = DatabaseSettings()
    study: StudySettings = StudySettings()
    geometry: GeometrySettings = GeometrySettings()
    inference: InferenceSettings = InferenceSettings()
    results: ResultSettings = ResultSettings()
    delivery: DeliverySettings = DeliverySettings()
    retention: RetentionSettings = RetentionSettings()
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

    @model_validator(mode="after")
    def _peers_know_how_they_are_called(self) -> Settings:
        for peer in self.peers.values():
            if peer.tls and self.identity is None:
                raise ValueError(f"peers.{peer.name}: tls: needs certificate, key and authorities in [tls]")
            if peer.tls and self.identity is not None:
                peer.show(self.identity)
        return self

    @property
    def identity(self) -> Identity | None:
        """Return who we are over TLS; None where the configuration has no certificate."""
        if self.tls.certificate is None or self.tls.key is None or self.tls.authorities is None:
            return None
        paths = (self.tls.certificate, self.tls.key, self.tls.authorities)
        return Identity(*((self.base_dir / path).resolve() for path in paths))

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
    def is_on_one_machine(self) -> bool:
        """Tell whether the store is one machine's: only PostgreSQL can be shared."""
        return self.database.url == "sqlite"

    @property
    def machine(self) -> str:
        """Return what this machine is called among those that share the store: its host name where none is set."""
        return self.node.machine or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())

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
