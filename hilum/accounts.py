"""Who gave a command, for the record."""

from __future__ import annotations

import os
import pwd


def account() -> str:
    """Return under which account of this machine the command runs, with the one behind sudo."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container need not know its users
        name = f"uid {os.getuid()}"
    behind = os.environ.get("SUDO_USER", "")
    return f"{name} (sudo by {behind})" if behind and behind != name else name
