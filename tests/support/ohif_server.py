"""Serve OHIF and an archive's DICOMweb under one origin of 127.0.0.1, as a site's web server does."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from pathlib import Path
from typing import Any

from tests.support.orthanc import Orthanc

_CONFIGURATION: dict[str, Any] = {
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    # Without the guided tour, which lies over the page at the first visit
    "customizationService": [{"ohif.tours": {"$set": []}}],
    "showStudyList": True,
    "investigationalUseDialog": {"option": "never"},
    "showCPUFallbackMessage": False,
    "defaultDataSourceName": "orthanc",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "orthanc",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "orthanc",
                "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web",
                "wadoUriRoot": "/dicom-web",
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True},
            },
        }
    ],
}


@contextmanager
def serving(viewer: Path, orthanc: Orthanc) -> Iterator[str]:
    """Serve the viewer and, under the same origin, the DICOMweb of an Orthanc; give the address."""

    class Handler(_Handler):
        folder = viewer
        archive = f"http://127.0.0.1:{orthanc.http_port}"

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers from the folder of the viewer, or with what the archive answers."""

    protocol_version = "HTTP/1.1"
    folder: Path
    archive: str

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/dicom-web/"):
            self._pass_on()
        elif path == "/app-config.js":
            self._answer(200, f"window.config = {json.dumps(_CONFIGURATION)};".encode(), "text/javascript")
        else:
            file = (self.folder / path.lstrip("/")).resolve()
            if not file.is_relative_to(self.folder.resolve()) or not file.is_file():
                file = self.folder / "index.html"  # the addresses of a single-page application
            kind = guess_type(file.name)[0] or "application/octet-stream"
            self._answer(200, file.read_bytes(), kind, keep=file.name != "index.html")

    def _pass_on(self) -> None:
        # The archive writes the Host that it is told into the addresses of bulk data
        headers = {name: self.headers[name] for name in ("Accept", "Host") if name in self.headers}
        request = urllib.request.Request(self.archive + self.path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                status, body, kind = response.status, response.read(), response.headers.get("Content-Type", "")
        except urllib.error.HTTPError as error:
            with error:
                status, body, kind = error.code, error.read(), error.headers.get("Content-Type", "")
        self._answer(status, body, kind)

    def _answer(self, status: int, body: bytes, kind: str, *, keep: bool = False) -> None:
        self.send_response(status)
        self.send_header("Cache-Control", "max-age=3600, immutable" if keep else "no-store")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        # What SharedArrayBuffer demands of a page
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the page has been left

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing."""
