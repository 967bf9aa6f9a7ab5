"""Reading a folder as the node would index it, and what the models say of it, in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from db.files.incoming import read_object
from hilum.config import Settings
from hilum.entries import ModelSettings
from hilum.models.studies import read_folder
from hilum.models.trying import try_models
from hilum.planning import plan_study, read_cards
from hilum.wording import place_words, rule_words, why_words
from study.entities import Verdict
from study.errors import Reason
from study.geometry import UnevenSpacing
from study.selection import SelectionRule
from study.states import VerdictOutcome
from tests.support.enhanced import enhanced_image
from tests.support.series import axial_affine, ct_series, save_series
from tests.unit.test_hilum_planning import stored

AFFINE = axial_affine((2.0, 0.8, 0.8))
VOXELS = np.zeros((12, 8, 8))


def classic(**attributes: object) -> list[Dataset]:
    return ct_series(VOXELS, AFFINE, study_instance_uid="1.2", attributes=attributes)


@pytest.mark.parametrize("kind", ["classic", "enhanced CT", "enhanced MR", "deflated"])
def test_a_file_s_header_is_the_one_that_the_node_would_index(tmp_path: Path, kind: str) -> None:
    if kind.startswith("enhanced"):
        images = [enhanced_image(VOXELS, AFFINE, range(12), kind.split()[1])]
    else:
        images = classic()[:1]
    if kind == "deflated":
        images[0].file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    (path,) = save_series(images, tmp_path)
    indexed = read_object(path).header
    (series,) = read_folder(tmp_path).studies.values()
    (headers,) = series.values()
    assert headers == [indexed]
    assert len(headers[0].slices()) == (12 if kind.startswith("enhanced") else 1)


def test_what_a_file_lacks_is_said_without_what_it_holds(tmp_path: Path) -> None:
    images = classic()[:2]
    del images[0].StudyInstanceUID
    images[1].SeriesInstanceUID = "1.2.345678"
    _, path = save_series(images, tmp_path)
    path.write_bytes(path.read_bytes().replace(b"1.2.345678", b"1.2.SECRET"))
    found = read_folder(tmp_path)
    assert found.studies == {}
    (first, second) = found.left_out
    assert first == (tmp_path / "00000.dcm", "StudyInstanceUID is absent or empty")
    assert "SECRET" not in second[1]


def test_a_link_to_a_folder_is_not_followed_for_ever(tmp_path: Path) -> None:
    save_series(classic(), tmp_path / "a")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    found = read_folder(tmp_path)
    assert (found.copies, found.not_dicom) == (0, 0)
    assert [len(headers) for series in found.studies.values() for headers in series.values()] == [12]


@pytest.mark.parametrize("what", ["fits", "gap", "two patients", "other modality", "changed bundle"])
def test_a_model_would_run_where_the_node_plans_a_job_without_refusal(what: str) -> None:
    images = classic(Modality="MR") if what == "other modality" else classic()
    if what == "gap":
        del images[5]
    if what == "two patients":
        images[5].PatientID = "P2"
    digest = "0" * 64 if what == "changed bundle" else None
    settings = Settings(models={"m": ModelSettings(name="m", bundle="builtin:lung_ct", digest=digest)})
    cards = read_cards(settings)
    series = {str(images[0].SeriesInstanceUID): stored(images)}
    trial = try_models(settings, cards, "1.2", {uid: [one.header for one in group] for uid, group in series.items()})
    plan = plan_study(settings, cards, series)
    assert trial.runs == any(job.refusal is None for job in plan.jobs) == (what == "fits")
    assert trial.verdicts == plan.verdicts
    (opinion,) = trial.opinions
    refusal = plan.jobs[0].refusal if plan.jobs else None
    assert [reason.code for reason in opinion.reasons][:1] == ([refusal.code] if refusal else [])


def test_a_verdict_names_its_series_as_a_person_finds_it() -> None:
    chosen = Verdict("m", "1.2.3", 4, "Brain", "Echo Time 4.6 ms", VerdictOutcome.CHOSEN)
    refused = Verdict(
        "m", "1.2.3", None, "", "", VerdictOutcome.REFUSED, (Reason("A", "This is so."), Reason("B", "And that."))
    )
    assert place_words(chosen) == 'series 4 "Brain", Echo Time 4.6 ms'
    assert place_words(refused) == "series 1.2.3"
    assert why_words(chosen) == ""
    assert why_words(refused) == "A: This is so. B: And that."


def test_a_rule_is_told_in_words() -> None:
    rule = SelectionRule(
        modality=("MR",),
        sop_classes=("1.2.840.10008.5.1.4.1.1.4",),
        body_part=("BRAIN", "HEAD"),
        description_exclude=("scout",),
        orientation=("axial",),
        slices=(20, None),
        slice_thickness=(None, 5.0),
        echo_time=(2.0, 4.5),
        contrast=False,
        prefer=("thinnest", "most_slices"),
        uneven_spacing=UnevenSpacing.RESAMPLE,
    )
    assert list(rule_words(rule)) == [
        "Modality MR",
        "a volume of parallel slices",
        "Body Part Examined BRAIN, HEAD",
        "Series Description does not match scout",
        "Image Type has none of LOCALIZER, SCREEN SAVE",
        "orientation axial",
        "SOP Class MR Image Storage",
        "slices at least 20",
        "Slice Thickness at most 5 mm",
        "Echo Time 2 to 4.5 ms",
        "without contrast agent",
        "of several that fit: thinnest, then most slices",
        "unevenly spaced slices are resampled",
    ]


def test_every_demand_of_a_rule_has_words() -> None:
    said: dict[str, Any] = {
        "modality": ("MR",),
        "sop_classes": ("1.2.840.10008.5.1.4.1.1.4",),
        "form": "image",
        "orientation": ("axial",),
        "contrast": True,
        "prefer": ("latest",),
        "uneven_spacing": UnevenSpacing.RESAMPLE,
    }
    plain = set(rule_words(SelectionRule()))
    for name in SelectionRule.__dataclass_fields__:
        limits = name in {"slices", "slice_thickness", "slice_spacing", "pixel_spacing", "echo_time", "b_value"}
        value: Any = said.get(name, (1.0, 2.0) if limits else ("WORD",))
        assert set(rule_words(replace(SelectionRule(), **{name: value}))) - plain, name
