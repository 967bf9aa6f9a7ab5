"""Logs: no patient in any, whatever happens; what belongs to an association, a study or a job can be found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from hilum.phantom import write_phantom_study
from scp.association.requesting import Peer
from scp.sending.sender import send_files
from study.errors import AssociationRejected, StoreFailed
from study.forms import SOP_CLASSES, Form
from tests.support.faulty_pacs import Fault, FaultyPacs
from tests.support.network import wait_until
from tests.support.node import MODALITY, Node, running
from tests.support.series import ct_series, save_series

SECRETS = {
    "PatientName": "Secretus^Homo\u00dcs=\u79d8\u5bc6^\u82b1\u5b50",
    "PatientID": "SECRETID77",
    "PatientBirthDate": "19471103",
    "AccessionNumber": "ACCSECRET9",
    "ReferringPhysicianName": "Doktorandus^Ludmilla",
    "InstitutionName": "Klinikum Geheimstadt",
    "OtherPatientIDs": "OTHERID4711",
}
WORDS = (
    *("Secretus", "Homo\u00dcs", "\u79d8\u5bc6", "\u82b1\u5b50", "SECRETID77", "19471103", "ACCSECRET9"),
    *("Doktorandus", "Ludmilla", "Geheimstadt", "OTHERID4711"),
)
ENCODINGS = ("utf-8", "latin-1", "iso2022_jp", "shift_jis", "utf-16-le")
HAPPENINGS = {
    *("receiver.association_accepted", "receiver.association_rejected", "receiver.instance_stored"),
    *("receiver.instance_refused", "index.batch", "index.set_aside", "study.closed", "job.started", "job.refused"),
    *("job.done", "delivery.not_taken", "delivery.delivered"),
}
OF_A_JOB = {"job.started", "job.done", "job.refused"}


def secret(path: Path, change: Callable[[bytes], bytes] = bytes, **further: str) -> Path:
    """Give an image the secret identity and further attributes, then change its bytes."""
    image = pydicom.dcmread(path)
    image.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in (SECRETS | further).items():
        setattr(image, keyword, value)
    image.save_as(path)
    path.write_bytes(change(path.read_bytes()))
    return path


def another_uid(content: bytes) -> bytes:
    """Change the SOP Instance UID of the data set, and not that of the File Meta Information."""
    uid = str(pydicom.dcmread(BytesIO(content)).SOPInstanceUID).encode()
    before, _, after = content.rpartition(uid)
    return before + uid[:-1] + (b"1" if uid.endswith(b"2") else b"2") + after


def entries(node: Node) -> Iterator[dict[str, Any]]:
    for path in sorted((node.data_dir / "logs").iterdir()):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def forms_of(word: str) -> set[bytes]:
    """Return a word's bytes in every encoding and case, also as JSON and Python escape them."""
    found = set()
    for each in {word, word.lower(), word.upper()}:
        found |= {json.dumps(each)[1:-1].encode(), ascii(each)[1:-1].encode(), each.encode("unicode_escape")}
        for encoding in ENCODINGS:
            try:
                found.add(each.encode(encoding))
            except UnicodeEncodeError:
                continue
    return found


def send(node: Node, paths: list[Path], calling: str = MODALITY) -> list[bool]:
    """Send files as they are; return which were stored."""
    peer = Peer("node", "HILUM", "127.0.0.1", node.port)
    return [sent.error is None for sent in send_files(peer, calling, paths)]


@pytest.mark.filterwarnings("ignore:The PN component length")
def test_no_patient_is_in_any_log_and_what_belongs_together_can_be_found(tmp_path: Path) -> None:
    pacs = FaultyPacs(comment="Secretus SECRETID77 is unknown")
    pacs.script += [Fault.SLOW, Fault.FULL, Fault.STRANGER, Fault.COERCES]
    entry = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "results": ["seg", "sr"]}
    lungs = [secret(path) for path in write_phantom_study(tmp_path / "lungs", datetime.now(UTC), 60)]
    uniform, strange = (save_series(ct_series(np.full((40, 32, 32), 40)), tmp_path / name) for name in ("u", "s"))
    endless, other = save_series(ct_series(np.zeros((2, 8, 8))), tmp_path)
    node = Node(tmp_path / "node", [entry], {"node.log_level": "debug"})
    with running(node), pacs.running():
        assert all(send(node, lungs))
        assert all(send(node, [secret(path) for path in uniform]))
        # A number that is none, where the analysis needs it
        assert all(send(node, [secret(path, lambda raw: raw.replace(b"-1024 ", b"Secret")) for path in strange]))
        assert send(node, [secret(endless, PatientName="Secretus^" * 5000)]) == [True]
        assert send(node, [secret(other, another_uid)]) == [False]
        (sent,) = send_files(Peer("node", "HILUM", "127.0.0.1", node.port), "STRANGER", lungs[:1])
        assert isinstance(sent.error, AssociationRejected)
        node.wait_for_state("DELIVERED", "REFUSED", "FAILED", studies=3)
        wait_until(lambda: {each["event"] for each in entries(node)} >= HAPPENINGS, 20, "all that happens")
        assert pacs.met[:3] == [Fault.FULL, Fault.STRANGER, Fault.COERCES]
    logs = [node.folder / "serve.log", *(node.data_dir / "logs").iterdir()]
    assert any(form in path.read_bytes() for path in logs for form in forms_of("Modality"))
    for path in logs:
        content = path.read_bytes()
        for word in WORDS:
            assert not [form for form in forms_of(word) if form in content], path.name
    demand_that_what_belongs_together_can_be_found(list(entries(node)))


def demand_that_what_belongs_together_can_be_found(logged: list[dict[str, Any]]) -> None:
    accepted = {each["association"] for each in logged if each["event"] == "receiver.association_accepted"}
    about = ("receiver.association_", "receiver.instance_", "delivery.")
    for each in logged:
        if each["event"].startswith(about):
            assert each["association"], each
        if each["event"].startswith("receiver.instance_"):
            assert each["association"] in accepted
        if each["event"] in OF_A_JOB:
            assert each["job"]
            assert each["study"]
        if each["event"].startswith("delivery."):
            assert each["study"]
            assert each["delivery"]


def test_what_a_peer_says_in_its_own_words_is_for_the_record_and_no_log(tmp_path: Path) -> None:
    pacs = FaultyPacs(comment="Secretus is unknown")
    pacs.script.append(Fault.FULL)
    attributes = {"SOPClassUID": SOP_CLASSES[Form.SEG], "Modality": "SEG"}
    paths = save_series(ct_series(np.zeros((1, 8, 8)), attributes=attributes), tmp_path)
    with pacs.running():
        (sent,) = send_files(Peer("pacs", "PACS", "127.0.0.1", pacs.port), "HILUM", paths)
    assert isinstance(sent.error, StoreFailed)
    assert "A700" in sent.error.words
    assert "Secretus" not in sent.error.words
    assert sent.error.reason.words.endswith('It said: "Secretus is unknown".')


@pytest.mark.parametrize("kind", ["warning", "thread", "process", "library"])
def test_what_libraries_say_is_left_out_however_they_say_it(tmp_path: Path, kind: str) -> None:
    import subprocess
    import sys

    code = f"""
import logging, pathlib, sys, threading, warnings
from hilum.journal import open_journal
open_journal(pathlib.Path(sys.argv[1]), "test", "debug")
def fail():
    raise ValueError("Secretus^Homo")
kind = {kind!r}
if kind == "warning":
    warnings.warn("Invalid value for VR PN: 'Secretus^Homo'")
elif kind == "library":
    logging.getLogger("monai.data").error("Secretus^%s", "Homo")
    logging.getLogger("scp.receiving.intake").error("our own words")
elif kind == "thread":
    thread = threading.Thread(target=fail, name="association-1a2b")
    thread.start()
    thread.join()
else:
    fail()
"""
    ran = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    logged = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert "Secretus" not in ran.stderr + (tmp_path / "test.jsonl").read_text()
    events = {
        "warning": ["library.warned"],
        "thread": ["thread.crashed"],
        "process": ["process.crashed"],
        "library": ["library.note", "wing.note"],
    }
    assert [each["event"] for each in logged] == events[kind]
    if kind == "thread":
        assert logged[0]["association"] == "1a2b"
        assert logged[0]["exception"][0].startswith("ValueError at ")
        assert logged[0]["exception"][0].endswith(" fail")
    if kind == "library":
        assert (logged[0]["library"], logged[1]["words"]) == ("monai.data", "our own words")
