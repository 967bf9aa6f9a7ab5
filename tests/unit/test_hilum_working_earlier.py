"""The earlier series of a job as its runner gives them to the model: in order, with what a reader must know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from hilum.config import Settings
from hilum.entries import ModelSettings
from hilum.planning import read_cards
from hilum.working.earlier import limits_of, priors_of
from hilum.working.wire import Request
from inference.catalog import ModelCard
from study.headers import InstanceHeader
from study.identity import CONFLICTING
from study.priors import NONE_FOUND
from tests.support.enhanced import enhanced_image
from tests.support.series import axial_affine, ct_series

STOPPED = "Not compared: the attempt before this one was stopped."


def card(**priors: Any) -> ModelCard:  # noqa: ANN401 - any key of [models.priors]
    entry = ModelSettings.model_validate({"name": "lung_ct", "bundle": "builtin:lung_ct", "priors": priors})
    return read_cards(Settings(models={"lung_ct": entry}))["lung_ct"]


def images(date: str, **attributes: object) -> list[Dataset]:
    return ct_series(np.zeros((6, 8, 8)), attributes={"StudyDate": date, "SeriesDescription": "Körper"} | attributes)


def headers(of: list[Dataset]) -> list[tuple[str, InstanceHeader]]:
    return [(f"/{number}.dcm", InstanceHeader.of(each, ExplicitVRLittleEndian)) for number, each in enumerate(of)]


def request(*priors: list[tuple[str, InstanceHeader]], **more: Any) -> Request:  # noqa: ANN401 - of any parameter
    parameters: dict[str, Any] = {
        "frame_of_reference": "strict",
        "uneven_spacing": "refuse",
        "priors": [{"study": "1", "series": "1"} for _ in priors],
    }
    now = tuple(headers(images("20240203")))
    made = Request(
        7, 2, "lung_ct", "d", now, "i", parameters | more, "p", "2026-01-02T03:04:05+00:00", "/out", "2", "s"
    )
    return Request.from_bytes(replace(made, priors=tuple(map(tuple, priors))).to_bytes())


def now_of(asked: Request) -> list[InstanceHeader]:
    return [header for _, header in asked.instances]


def test_slices_come_in_the_order_of_their_places() -> None:
    asked = request(headers(images("20230511"))[::-1])
    (prior,), words = priors_of(asked, card(), now_of(asked), 3)
    assert prior.series.paths == tuple(Path(f"/{number}.dcm") for number in range(6))
    assert prior.series.geometry is not None
    assert prior.series.threads == 3
    assert (prior.earlier.study_date, prior.earlier.series_number, prior.earlier.modality) == ("20230511", 3, "CT")
    assert prior.limits == ()
    assert words == []


def test_frames_of_one_image_are_slices() -> None:
    enhanced = enhanced_image(np.zeros((6, 8, 8)), axial_affine(), (5, 4, 3, 2, 1, 0), "CT")
    enhanced.StudyDate = "20230511"
    asked = request(headers([enhanced]), priors=[{"frames": [[0, number] for number in (6, 5, 4, 3, 2)]}])
    (prior,), _ = priors_of(asked, card(), now_of(asked), 1)
    assert [header.frame_number for header in prior.series.headers] == [6, 5, 4, 3, 2]
    assert set(prior.series.paths) == {Path("/0.dcm")}


def test_images_that_were_made_otherwise_are_a_limit() -> None:
    asked = request(headers(images("20230511", SliceThickness="5")))
    (prior,), _ = priors_of(asked, card(), now_of(asked), 1)
    assert prior.limits == (
        "The images of 2023-05-11 were made otherwise (slices of 5 mm then and 2 mm now): a change since then may be "
        "technical.",
    )


def test_what_is_not_compared_is_told_apart_from_what_most_patients_have() -> None:
    told = [{"code": CONFLICTING, "words": "Another birth date."}, {"code": NONE_FOUND, "words": "None."}]
    asked = request(not_compared=told)
    assert priors_of(asked, card(), now_of(asked), 1) == ([], ["Another birth date."])
    assert limits_of(asked) == ["None."]


def test_after_a_stop_at_an_earlier_study_the_next_attempt_does_without() -> None:
    asked = replace(request(headers(images("20230511"))), without_priors=STOPPED)
    assert priors_of(asked, card(), now_of(asked), 1) == ([], [STOPPED])
    needed, words = priors_of(asked, card(required=True), now_of(asked), 1)
    assert (len(needed), words) == (1, [])


def test_slices_that_form_no_volume_any_more_are_told() -> None:
    broken = headers(images("20230511"))
    del broken[2]
    asked = request(broken, headers(images("20210302")))
    (prior,), (words,) = priors_of(asked, card(), now_of(asked), 1)
    assert prior.earlier.study_date == "20210302"
    assert words.startswith("Not compared with the study of 2023-05-11: ")
