"""Run a real Orthanc: an archive that others wrote, with its own folder and ports."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scp.association.requesting import Peer
from tests.support.network import accepts_connections, free_port, wait_until
from tests.support.peers import DCMTK_ENVIRONMENT, program

DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
"""Where Debian's package orthanc-dicomweb puts it."""
FORWARD_EVERYTHING = """
function OnStoredInstance(instance_id, tags, metadata)
   SendToModality(instance_id, '%s')
end
"""


@dataclass(frozen=True)
class Orthanc:
    """An Orthanc that runs."""

    ae_title: str
    dicom_port: int
    http_port: int
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def peer(self) -> Peer:
        """The archive as a peer to send to."""
        return Peer("pacs", self.ae_title, "127.0.0.1", self.dicom_port)

    def get(self, path: str) -> Any:  # noqa: ANN401 - whatever JSON the address gives
        """Return the JSON that the REST API gives for `path`, such as ``/instances``."""
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        """Return what the REST API gives for `path`, such as ``/instances/{id}/file``."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=30) as response:
            content: bytes = response.read()
            return content

    def instances(self, **query: str) -> list[dict[str, Any]]:
        """Return the main tags of every instance whose tags match `query` (keywords to values), by /tools/find."""
        body = json.dumps({"Level": "Instance", "Query": query, "Expand": True}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}/tools/find", data=body)
        with urllib.request.urlopen(request, timeout=30) as response:
            found: list[dict[str, Any]] = json.loads(response.read())
            return found

    def download(self, folder: Path, **query: str) -> list[Path]:
        """Write the file of every matching instance into `folder` and return the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for instance in self.instances(**query):
            path = folder / f"{instance['MainDicomTags']['SOPInstanceUID']}.dcm"
            path.write_bytes(self.get_bytes(f"/instances/{instance['ID']}/file"))
            paths.append(path)
        return paths


@contextmanager
def running_orthanc(
    folder: Path,
    *,
    ae_title: str = "PACS",
    modalities: Mapping[str, Peer] | None = None,
    forward_everything_to: str | None = None,
    settings: Mapping[str, Any] | None = None,
    dicom_port: int | None = None,
    dicomweb: bool = False,
) -> Iterator[Orthanc]:
    """Run an Orthanc on free ports of 127.0.0.1, ready to be talked to.

    Parameters
    ----------
    folder
        Its storage, database, configuration and log; kept between runs on the same folder.
    modalities
        The DICOM nodes that it knows, by their name in Orthanc.
    forward_everything_to
        The modality to which it sends every instance that it stores.
    settings
        Further entries of its configuration.
    dicom_port
        Where it must be a certain one.
    dicomweb
        Whether it serves DICOMweb at /dicom-web/ of its HTTP port.
    """
    executable = program("Orthanc", package="orthanc")
    folder.mkdir(parents=True, exist_ok=True)
    dicom_port, http_port = dicom_port or free_port(), free_port()
    configuration = _configuration(folder, ae_title, dicom_port, http_port, modalities or {}) | dict(settings or {})
    if dicomweb:
        configuration |= _dicomweb()
    if forward_everything_to is not None:
        script = folder / "forward.lua"
        script.write_text(FORWARD_EVERYTHING % forward_everything_to)
        configuration["LuaScripts"] = [str(script)]
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("ab") as log:
        process = subprocess.Popen(
            [executable, str(folder / "orthanc.json")], stdout=log, stderr=log, env=DCMTK_ENVIRONMENT
        )
    try:
        wait_until(
            lambda: _runs(process, folder) and accepts_connections(dicom_port) and accepts_connections(http_port),
            60,
            "Orthanc",
        )
        yield Orthanc(ae_title, dicom_port, http_port, folder, process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _runs(process: subprocess.Popen[bytes], folder: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"Orthanc ended: {(folder / 'orthanc.log').read_text()[-2000:]}")
    return True


def _dicomweb() -> dict[str, Any]:
    if not DICOMWEB_PLUGIN.exists():
        pytest.skip("needs Orthanc's DICOMweb plugin (apt-get install orthanc-dicomweb)")
    return {"Plugins": [str(DICOMWEB_PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}


def _configuration(
    folder: Path, ae_title: str, dicom_port: int, http_port: int, modalities: Mapping[str, Peer]
) -> dict[str, Any]:
    return {
        "Name": "Test archive",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
        "DicomAet": ae_title,
        "DicomPort": dicom_port,
        "DicomCheckCalledAet": True,
        "HttpPort": http_port,
        "HttpDescribeErrors": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "UnknownSopClassAccepted": True,
        "OverwriteInstances": False,
        "StableAge": 1,
        "DicomModalities": {name: [peer.ae_title, peer.host, peer.port] for name, peer in modalities.items()},
    }
