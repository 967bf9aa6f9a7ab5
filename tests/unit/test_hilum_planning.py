"""Which jobs a study calls for: the accepted series' instances and the settings make the key, nothing else does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from db.work.notices import is_owed
from hilum.config import Settings
from hilum.entries import ModelSettings, PeerSettings, UrgentSettings
from hilum.planning import KEPT_HERE, Plan, json_digest, plan_study, read_cards
from study.entities import StoredInstance
from study.forms import Form
from study.geometry import FrameOfReferencePolicy
from study.headers import InstanceHeader
from tests.support.series import axial_affine, ct_series

SETTINGS = Settings(models={"lung_ct": ModelSettings(name="lung_ct", bundle="builtin:lung_ct")})
CARDS = read_cards(SETTINGS)


def stored(datasets: Sequence[Dataset]) -> list[StoredInstance]:
    now = datetime.now(UTC)
    return [
        StoredInstance(
            InstanceHeader.of(dataset, ExplicitVRLittleEndian), f"digest {dataset.SOPInstanceUID}", "", "", 1, "X", now
        )
        for dataset in datasets
    ]


def chest(slices: int = 20, **attributes: object) -> list[Dataset]:
    affine = axial_affine((2.0, 0.8, 0.8))
    return ct_series(np.zeros((slices, 8, 8)), affine, attributes=attributes, study_instance_uid="1.2")


def plan(*groups: Sequence[Dataset], settings: Settings = SETTINGS) -> Plan:
    series = {str(group[0].SeriesInstanceUID): stored(group) for group in groups}
    return plan_study(settings, CARDS, series)


def key(made: Plan) -> tuple[str, str, str]:
    (job,) = made.jobs
    return job.model_digest, job.parameters_digest, job.instances_digest


def test_the_key_holds_whatever_else_the_study_holds() -> None:
    images = chest()
    alone = plan(images)
    report = chest(1, Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.34", Rows=None, Columns=None)
    segmentation = chest(1, Modality="SEG", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", SeriesInstanceUID="1.2.9")
    assert alone.jobs[0].refusal is None
    assert key(plan(report, segmentation, images)) == key(alone)
    assert key(plan(list(reversed(images)))) == key(alone)


def test_a_stray_localizer_in_the_series_changes_no_key() -> None:
    images = chest()
    stray = chest(1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID=images[0].SeriesInstanceUID)
    made = plan([*images, *stray])
    assert key(made) == key(plan(images))
    assert len(made.jobs[0].sop_instance_uids) == len(images)
    assert made.jobs[0].parameters["notes"]  # the results say that it was left out


def test_another_slice_or_other_bytes_make_another_key() -> None:
    images = chest()
    again = stored(images)
    changed = [dataclasses.replace(again[0], digest="other"), *again[1:]]
    uid = str(images[0].SeriesInstanceUID)
    assert key(plan(images[:-1])) != key(plan(images))
    assert key(plan_study(SETTINGS, CARDS, {uid: changed})) != key(plan(images))


def test_a_setting_that_changes_results_makes_another_key() -> None:
    images = chest()
    lenient = SETTINGS.geometry.model_copy(update={"frame_of_reference": FrameOfReferencePolicy.BY_POSITION})
    assert key(plan(images, settings=SETTINGS.model_copy(update={"geometry": lenient}))) != key(plan(images))
    version = SETTINGS.results.model_copy(update={"disclaimer": "for research only"})
    assert key(plan(images, settings=SETTINGS.model_copy(update={"results": version}))) != key(plan(images))
    quiet = SETTINGS.study.model_copy(update={"quiet_seconds": 5.0})
    assert key(plan(images, settings=SETTINGS.model_copy(update={"study": quiet}))) == key(plan(images))


def test_a_refusal_is_planned_with_every_reason() -> None:
    images = chest()
    del images[7]
    for index, image in enumerate(images):
        image.FrameOfReferenceUID = generate_uid() if index else image.FrameOfReferenceUID
    (job,) = plan(images).jobs
    assert job.refusal is not None
    assert job.refusal.code in ("MissingSlices", "InconsistentFrameOfReference")
    assert "missing" in job.refusal.words
    assert "Frames of Reference" in job.refusal.words


def test_two_patients_are_refused_and_not_named() -> None:
    images = chest()
    images[3].PatientID = "SOMEBODY ELSE"
    (job,) = plan(images).jobs
    assert job.refusal is not None
    assert job.refusal.code == "ConflictingIdentity"
    assert "SOMEBODY" not in job.refusal.words


def test_what_no_model_wants_has_no_job_and_says_why() -> None:
    made = plan(chest(20, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"))
    assert made.jobs == ()
    assert made.words.startswith("lung_ct: none of 1 series is wanted.")
    assert "MR" in made.words


def test_to_whom_results_go_makes_no_other_key() -> None:
    """Another form for one peer, or an image from another sender, must not send everything anew to everybody."""
    images = chest()
    peer = PeerSettings(name="p", ae_title="P", host="h", port=1, results=(Form.SR,))
    assert key(plan(images, settings=SETTINGS.model_copy(update={"peers": {"p": peer}}))) == key(plan(images))


def test_who_is_sent_what_is_settled_with_the_plan() -> None:
    def of(calling: str, **rules: object) -> list[str]:
        peer = PeerSettings.model_validate(
            {"name": "pacs", "ae_title": "PACS", "host": "h", "port": 1, "results": ["sr", "refusal"]} | rules
        )
        sender = PeerSettings(name="ct", ae_title="CT1")
        settings = SETTINGS.model_copy(update={"peers": {"ct": sender, "pacs": peer}})
        images = [dataclasses.replace(image, calling_ae_title=calling) for image in stored(chest())]
        (job,) = plan_study(settings, CARDS, {images[0].header.series_instance_uid: images}).jobs
        return [f"{wish['peer']}: {', '.join(wish['forms'])}" for wish in job.parameters["wishes"]]

    assert of("CT1") == ["pacs: sr, refusal"]
    assert of("CT1", only_from=["ct"]) == ["pacs: sr, refusal"]
    # What nobody is sent is made and kept here all the same
    assert of("MR1", only_from=["ct"]) == [": seg, sr"]
    assert of("CT1", only_models=["other"]) == [": seg, sr"]
    assert of("CT1", results=["refusal"]) == ["pacs: refusal", ": seg, sr"]


def one_model(**entry: object) -> Settings:
    entry = {"name": "lung_ct", "bundle": "builtin:lung_ct"} | entry
    return SETTINGS.model_copy(update={"models": {"lung_ct": ModelSettings.model_validate(entry)}})


def test_how_a_model_is_run_is_part_of_the_key_only_where_the_entry_says_it() -> None:
    images = chest()
    keys = {
        key(plan(images, settings=one_model(**entry)))
        for entry in ({}, {"precision": "float32"}, {"precision": "bfloat16"}, {"compile": True})
    }
    assert len(keys) == 4
    assert key(plan(images, settings=one_model(compile=False))) == key(plan(images))
    # What is not set is nowhere in it: jobs of before, which could not say it, keep their keys
    assert not {"precision", "compile", "priority", "urgent"} & plan(images).jobs[0].parameters.keys()


def test_jobs_of_before_keep_their_keys() -> None:
    parameters = dict(plan(chest()).jobs[0].parameters)
    for name in ("notes", "form", "wishes"):
        del parameters[name]
    assert sorted(parameters) == [
        "allow_empty_patient_id",
        "description",
        "disclaimer",
        "frame_of_reference",
        "series_position",
        "uneven_spacing",
        "writer_version",
    ]
    assert json_digest(parameters) == plan(chest()).jobs[0].parameters_digest


def test_an_urgent_study_goes_first_whichever_of_its_images_say_so_and_has_the_same_key() -> None:
    emergency = UrgentSettings(name="emergency", department=("emergency",))
    night = UrgentSettings(name="night", only_from=("CT9",), priority=30)
    settings = one_model(priority=2).model_copy(
        update={
            "urgent": {"emergency": emergency, "night": night},
            "peers": {"ct": PeerSettings(name="ct", ae_title="CT9")},
        }
    )
    images = chest()
    report = chest(
        1,
        Modality="SR",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.88.34",
        InstitutionalDepartmentName="Emergency Department",
    )
    (job,) = plan(report, images, settings=settings).jobs
    assert (job.priority, job.parameters["urgent"]) == (102, "emergency")
    (calm,) = plan(images, settings=settings).jobs
    assert (calm.priority, "urgent" in calm.parameters) == (2, False)
    assert calm.parameters_digest == job.parameters_digest == plan(images).jobs[0].parameters_digest
    from_night = [dataclasses.replace(image, calling_ae_title="CT9") for image in stored(images[:1])]
    series = {from_night[0].header.series_instance_uid: [*from_night, *stored(images[1:])]}
    (job,) = plan_study(settings, CARDS, series).jobs
    assert (job.priority, job.parameters["urgent"]) == (32, "night")


@pytest.mark.parametrize("complete", [True, False])
def test_what_a_model_in_the_shadow_finds_or_refuses_is_for_nobody(complete: bool) -> None:
    peer = PeerSettings(name="pacs", ae_title="PACS", host="h", port=1, results=(Form.SR, Form.REFUSAL))
    images = chest()
    if not complete:
        del images[7]
    shadow = one_model(deliver=False).model_copy(update={"peers": {"pacs": peer}})
    (job,) = plan(images, settings=shadow).jobs
    (shown,) = plan(images, settings=SETTINGS.model_copy(update={"peers": {"pacs": peer}})).jobs
    assert job.parameters["wishes"] == [KEPT_HERE.to_json()]
    assert shown.parameters["wishes"] == [peer.wish().to_json()]
    assert job.parameters_digest == shown.parameters_digest
    assert (job.refusal is None) is complete
    assert not is_owed(job.parameters, job.refusal)
    assert is_owed(shown.parameters, shown.refusal) is not complete
