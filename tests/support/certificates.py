"""Certificates for tests, made by openssl: an authority, whom it knows, and an authority that nobody trusts."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scp.association.tls import Identity
from tests.support.peers import program

_FOR_ALL = "subjectAltName=IP:127.0.0.1,DNS:localhost"
_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str) -> None:
    subprocess.run([program("openssl", package="openssl"), *arguments], check=True, capture_output=True)


def authority(folder: Path, name: str) -> Path:
    """Make the certificate and key of an authority; return the certificate's path."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate = folder / f"{name}.pem"
    made = ("-keyout", str(folder / f"{name}.key"), "-out", str(certificate), "-subj", f"/CN={name}", "-days", "30")
    _openssl("req", "-x509", *_EC, *made)
    return certificate


def issued(by: Path, name: str, *, host: str = _FOR_ALL, days: int = 90) -> Identity:
    """Make a certificate that an authority issues, and its key; its owner trusts the same authority."""
    certificate, key, asked = (by.parent / f"{name}.{suffix}" for suffix in ("crt", "key", "csr"))
    extension = by.parent / f"{name}.ext"
    extension.write_text(host)
    _openssl("req", *_EC, "-keyout", str(key), "-out", str(asked), "-subj", f"/CN={name}")
    signed_by = ("-CA", str(by), "-CAkey", str(by.with_suffix(".key")), "-CAcreateserial")
    _openssl(
        *("x509", "-req", "-in", str(asked), *signed_by, "-out", str(certificate), "-days", str(days)),
        *("-extfile", str(extension)),
    )
    return Identity(certificate, key, by)
