"""What `hilum models bench` measured last of each model: how far its results are from those of plain float32."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hilum.config import ModelSettings, Settings
from inference.catalog import ModelCard

_FOLDER = "bench"


@dataclass(frozen=True)
class Measured:
    """The difference of a model's results from those of plain float32, and of what it was measured; of no patient.

    Parameters
    ----------
    digest
        Of the bundle.
    precision, compile
        What its entry asked for.
    device, device_name
        Where it ran.
    at
        When, ISO 8601 with zone.
    difference
        As ``hilum models bench --json`` has it (docs/json.md).
    """

    model: str
    digest: str
    precision: str | None
    compile: bool
    device: str
    device_name: str
    at: str
    difference: dict[str, Any]

    def is_of(self, card: ModelCard, entry: ModelSettings) -> bool:
        """Tell whether it was measured of this very bundle, run as its entry says now."""
        return (self.digest, self.precision, self.compile) == (card.digest, entry.precision, entry.compile)


def keep(settings: Settings, measured: Measured) -> Path:
    """Write down what was measured of a model in place of what was measured before, whole or not at all."""
    file = _file(settings, measured.model)
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=f".{measured.model}.", dir=file.parent)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(asdict(measured), stream, indent=1)
    return Path(draft).replace(file)


def measured_last(settings: Settings, model_name: str) -> Measured | None:
    """Return what was measured of a model last; None where nothing is on record that can be read."""
    try:
        return Measured(**json.loads(_file(settings, model_name).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def unmeasured(settings: Settings, card: ModelCard) -> str | None:
    """Return what to do where an entry asks for other numbers than plain float32's and nobody knows how far off."""
    entry = settings.models[card.name]
    changes = [f"precision {entry.precision}"] if entry.precision not in {None, "float32"} else []
    changes += ["compile"] if entry.compile else []
    last = measured_last(settings, card.name)
    if not changes or (last is not None and last.is_of(card, entry)):
        return None
    return (
        f"{' and '.join(changes)} {'are' if len(changes) > 1 else 'is'} on, and the difference from float32 was never "
        f"measured for this digest: hilum models bench {card.name} STUDY"
    )


def _file(settings: Settings, model_name: str) -> Path:
    return settings.data_dir / _FOLDER / f"{model_name}.json"
