"""Models that do what none should, as bundles of their own: each fails in one way, and one is honest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from inference.catalog import digest_of
from tests.support.bundles import zoo_bundle

_NETWORK: Final = """
import ctypes, os, signal, subprocess, sys, time
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        {at_load}

    def forward(self, image):
        {body}
"""
THRESHOLD: Final = "return (image > 0).float()"


def _writing(message: str) -> str:
    """Return the body of a forward that writes to whatever is open, and then hangs."""
    return f"""
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, {message})
            except OSError:
                pass
        time.sleep(3600)
"""


HOSTILE: Final[Mapping[str, str]] = {
    "asks_to_exit": "sys.exit(3)",
    "reads_nowhere": "ctypes.string_at(0)",
    "loops": "\n        while True: pass",
    "stops_itself": "os.kill(os.getpid(), signal.SIGSTOP)",
    "eats_memory": "held = []\n        while True: held.append(torch.ones(25_000_000))",
    "closes_everything": "os.closerange(3, 4096)\n        time.sleep(3600)",
    "babbles": _writing("bytes([0, 0, 0, 9]) + b'no answer'"),
    "promises_more": _writing("bytes([0, 0, 9, 9]) + b'not all'"),
    "leaves_children": "subprocess.Popen(['sleep', '86397'], start_new_session=True)\n        os.abort()",
    "gives_nan": "return image * float('nan')",
    "gives_other_shape": "return image[..., 1:]",
    "gives_undeclared": "return (image > 0).float() * 7",
}
"""Bodies of the forward of a network by the name of the model."""

LOADS: Final[Mapping[str, str]] = {
    "never_loads": "time.sleep(3600)",
    "dies_loading": "os.abort()",
}
"""What a network does while it is made."""


def network(body: str = THRESHOLD, at_load: str = "pass") -> str:
    """Return the source of a module with such a network."""
    return _NETWORK.format(body=body, at_load=at_load)


def entry(folder: Path, name: str, source: str, keys: Mapping[str, Any] | None = None) -> str:
    """Write the bundle, and return its ``[[models]]`` entry, which takes series with its name in their description."""
    bundle = zoo_bundle(folder / name, network=source)
    lines = ["[[models]]", f'name = "{name}"', f'bundle = "{bundle}"', f'digest = "{digest_of(bundle)}"']
    values = {"select.description_include": "hostile"} | dict(keys or {})
    for key, value in values.items():
        lines.append(f"{key} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
