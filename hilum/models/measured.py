"""What `hilum models bench` measured last of each model: how far its results are from those of plain float32."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from db.files.durable import make_folders, publish
from hilum.config import Settings
from hilum.entries import ModelSettings
from hilum.working.capacity import device_kind
from inference.catalog import ModelCard

_FOLDER: Final = "bench"
_ON: Final = {"cpu": "the processor", "cuda": "a GPU"}


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

    def is_of(self, card: ModelCard, entry: ModelSettings, kind: str) -> bool:
        """Tell whether it was measured of this very bundle, run as its entry says now, on a device of that kind."""
        measured = (self.digest, self.precision, self.compile, self.device.partition(":")[0])
        return measured == (card.digest, entry.precision, entry.compile, kind)


def keep(settings: Settings, measured: Measured) -> Path:
    """Write down what was measured of a model in place of what was measured before, whole or not at all."""
    text = json.dumps(asdict(measured), indent=1)
    file = _file(settings, measured.model)
    make_folders([file.parent])
    descriptor, name = tempfile.mkstemp(prefix=f".{measured.model}.", dir=file.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        publish(draft, file)
    finally:
        draft.unlink(missing_ok=True)
    return file


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
    if not changes:
        return None
    last, kind = measured_last(settings, card.name), device_kind(settings)
    if last is not None and last.is_of(card, entry, kind):
        return None
    return (
        f"{' and '.join(changes)} {'are' if len(changes) > 1 else 'is'} on, and the difference from float32 was never "
        f"measured for this digest on {_ON[kind]}: hilum models bench {card.name} STUDY"
    )


def _file(settings: Settings, model_name: str) -> Path:
    return settings.data_dir / _FOLDER / f"{model_name}.json"
