"""The tables of the configuration that stand once: the node, its database, studies, models, results, delivery."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from study.geometry import FrameOfReferencePolicy
from study.uids import ae_title

AETitleText = Annotated[str, AfterValidator(ae_title)]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Port = Annotated[int, Field(ge=0, le=65535)]
_MACHINE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_DEVICE: Final = re.compile(r"cpu|cuda:[0-9]{1,2}")
_SUCH_DEVICES: Final = 'is "auto", or a list of devices, as ["cuda:0", "cpu"]'


class Section(BaseModel):
    """A table of the configuration: frozen, and an unknown key in it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _machine(name: str) -> str:
    if name and not _MACHINE.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a machine: letters, digits, dots, dashes, underscores, 63 at most")
    return name


class NodeSettings(Section):
    """The node on the network, and where it keeps what lasts."""

    ae_title: AETitleText = "HILUM"
    bind: str = "0.0.0.0"  # noqa: S104 - a DICOM node listens to the hospital's network
    port: Port = 11112
    data_dir: Path = Path("var")
    machine: Annotated[str, AfterValidator(_machine)] = ""
    accept: Literal["known", "any"] = "known"
    unknown_sop_classes: bool = True
    receivers: int = Field(default=2, ge=1, le=32)
    max_associations: int = Field(default=64, ge=1, le=500)
    disk_reserve_mb: int = Field(default=1024, ge=0)
    fast_reception: bool = True
    reception_log_mb: int = Field(default=512, ge=0, le=65_536)
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class TLSSettings(Section):
    """The port that takes DICOM over TLS, and how we prove who we are; without a certificate there is neither."""

    port: Port = 0
    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None
    handshake_seconds: float = Field(default=10, gt=0, le=300)

    @model_validator(mode="after")
    def _whole(self) -> TLSSettings:
        given = [name for name in ("certificate", "key", "authorities") if getattr(self, name) is not None]
        if (self.port or given) and len(given) < 3:
            lacking = [name for name in ("certificate", "key", "authorities") if name not in given]
            raise ValueError(f"certificate, key and authorities belong together; {' and '.join(lacking)} lacking")
        return self


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
    lease_seconds: float = Field(default=30, ge=3, le=3_600)


def _zone(name: str) -> str:
    try:
        if name:
            ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f'{name!r} is no time zone that this machine knows; give one as "Europe/Vienna", or leave it out'
        ) from None
    return name


class ResultSettings(Section):
    """What is written into every result."""

    disclaimer: str = Field(default="not for diagnostic use", max_length=28, pattern=r"^[ -\[\]-~]*$")
    allow_empty_patient_id: bool = False
    time_zone: Annotated[str, AfterValidator(_zone)] = ""
    refusal_delay_seconds: float = Field(default=300, ge=0, le=86_400)


class DeliverySettings(Section):
    """How a result that was not taken is tried again."""

    retry_seconds: float = Field(default=5, gt=0)
    retry_max_seconds: float = Field(default=300, gt=0)
    problem_retry_seconds: float = Field(default=900, gt=0)
    commitment_seconds: float = Field(default=300, gt=0, le=604_800)
    commitment_attempts: int = Field(default=3, ge=1, le=100)
    lease_seconds: float = Field(default=120, ge=3, le=3_600)


class RetentionSettings(Section):
    """How long, and how much, the node keeps; 0: for good, and whatever fits on the disk."""

    days: float = Field(default=0, ge=0, le=100_000)
    max_gb: float = Field(default=0, ge=0)
    vouched_days: float = Field(default=0, ge=0, le=100_000)

    @property
    def is_on(self) -> bool:
        """Tell whether anything is ever removed."""
        return bool(self.days or self.max_gb)
