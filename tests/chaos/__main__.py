"""``python -m tests.chaos --rounds 200 --seed 7``: rounds of chaos, a line for each, and the table at the end."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.rounds import Chaos

_FULL_ROUNDS = 200
_LEAST_HITS = 10


def main(arguments: list[str]) -> int:
    """Run the rounds; return 1 where anything was lost, missing, there twice or stuck, or a step too seldom hit."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_FULL_ROUNDS)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--folder", type=Path, help="keeps everything for a look afterwards; else it is removed")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begins no round after so long")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    if options.folder is not None:
        if options.folder.exists() and any(options.folder.iterdir()):
            parser.error(f"{options.folder} is not empty; the run needs a folder of its own")
        return _run(options.folder, options)
    with tempfile.TemporaryDirectory(prefix="hilum-chaos-") as folder:
        return _run(Path(folder), options)


def _run(folder: Path, options: argparse.Namespace) -> int:
    with Chaos(folder.resolve(), options.seed) as chaos:
        for number in range(1, options.rounds + 1):
            if chaos.seconds < options.seconds:
                print(chaos.round(number), flush=True)
        tally = chaos.finish()
    print(*tally.lines(), sep="\n", flush=True)
    return 0 if tally.is_clean(_LEAST_HITS if tally.rounds >= _FULL_ROUNDS else 0) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
