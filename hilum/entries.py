"""The tables of the configuration that may stand several times: peers, models, and what is urgent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from hilum.sections import AETitleText, Name, Port, Section
from inference.catalog import is_builtin
from inference.description import ModelDescription, texts
from inference.options import Precision
from scp.association.tls import Identity
from study.forms import SEGMENTATIONS, Form, Wish
from study.patterns import patterns
from study.urgency import UrgencyRule

Patterns = Annotated[tuple[str, ...], BeforeValidator(texts), AfterValidator(patterns)]
TransferSyntax = Literal["explicit", "implicit", "rle"]
_LONGEST_PREFIX: Final = 16
_TRANSFER_SYNTAXES: Final = {
    "explicit": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "rle": "1.2.840.10008.1.2.5",
}


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
    tls: bool = False
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
    _identity: Identity | None = PrivateAttr(default=None)  # of `[tls]`, for a peer that is called over TLS

    @property
    def identity(self) -> Identity | None:
        """Return who we are to the peer over TLS; None where it is called plainly."""
        return self._identity

    def show(self, identity: Identity) -> None:
        """Have the peer called over TLS, with this identity."""
        self._identity = identity

    @model_validator(mode="after")
    def _reachable(self) -> PeerSettings:
        if bool(self.host) != bool(self.port):
            raise ValueError("host and port belong together: give both, or neither for a peer that only sends")
        if self.tls and not self.host:
            raise ValueError("tls is how we call a peer: give host and port, or leave it out; callers choose our port")
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
