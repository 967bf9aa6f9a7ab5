"""The npm packages that the tests with OHIF need, fetched once into a cache outside the repository."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import program

CACHE = Path(os.environ.get("OHIF_CACHE", Path.home() / ".cache" / "hilum-tests" / "ohif"))
"""Where the viewer and what drives the browser are kept between runs."""
PACKAGES = {
    "@ohif/app@3.12.10": "0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA==",
    "playwright-core@1.60.0": (
        "9bW6zvX/m0lEbgTKJ6YppOKx8H3VOPBMOCFh2irXFOT4BbHgrx5hPjwJYLT40Lu+4qtD36qKc/Hn56StUW57IA=="
    ),
}
"""The npm packages and the SHA-512 of their archives, as npm writes it."""
OHIF, PLAYWRIGHT = PACKAGES


def fetched(package: str) -> Path:
    """Return the folder of an npm package of `PACKAGES`, fetched once and its archive held against the known sum."""
    folder = CACHE / package.replace("/", "-")
    if folder.exists():
        return folder
    npm = program("npm", package="npm")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        command = [npm, "pack", "--loglevel=error", package]
        run = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=300, check=False)
        if run.returncode != 0:
            pytest.skip(f"needs the npm package {package}, and npm did not fetch it: {run.stderr.strip()[:300]}")
        (archive,) = Path(work).glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        assert digest == PACKAGES[package], f"{package} has the sum {digest}"
        with tarfile.open(archive) as packed:
            # The first releases of Python 3.11 know no filters; what the archive holds is known by its sum
            filters: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            packed.extractall(Path(work) / "unpacked", **filters)
        try:
            (Path(work) / "unpacked" / "package").rename(folder)
        except OSError:
            assert folder.exists()  # another run was faster
    return folder
