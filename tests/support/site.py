"""A site in one process: a configuration, a series on disk, what is planned for it, and what the runner makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from hilum.config import Settings
from hilum.entries import ModelSettings
from hilum.pipeline import Pipeline
from hilum.planning import Plan, plan_study, read_cards
from hilum.working.wire import Request
from inference.account import Account
from inference.catalog import digest_of
from study.entities import PlannedJob, StoredInstance
from study.forms import Wish, all_variants, settle
from study.headers import HEADER_KEYWORDS, InstanceHeader
from study.uids import derive_uid
from tests.support.series import save_series


@dataclass(frozen=True)
class Site:
    """Settings, where files lie, and the plan that was made for them.

    Parameters
    ----------
    paths
        Of each instance, by its SOP Instance UID.
    """

    settings: Settings
    folder: Path
    paths: Mapping[str, Path]
    headers: Mapping[str, InstanceHeader]
    plan: Plan

    def run(self, job: PlannedJob) -> dict[str, Dataset]:
        """Return the results of a job by their form, read back from their files."""
        message = Request(
            job_id=1,
            attempt=1,
            model_name=job.model_name,
            model_digest=job.model_digest,
            instances=tuple((str(self.paths[uid]), self.headers[uid]) for uid in job.sop_instance_uids),
            instances_digest=job.instances_digest,
            parameters=job.parameters,
            parameters_digest=job.parameters_digest,
            created_at=datetime(2026, 3, 4, 22, 30, 15, tzinfo=UTC).isoformat(),
            folder=str(self.settings.data_dir / "results" / job.model_name),
            device_uid="2.25.77",
            serial="S-7",
            variants=all_variants(settle(Wish.from_json(wish), {}) for wish in job.parameters["wishes"]),
        ).to_bytes()
        request = Request.from_bytes(message)  # as it comes over the wire
        results = Pipeline(self.settings).run(request, Account())
        return {result.form: dcmread(self.settings.data_dir / result.path) for result in results}


def entry(bundle: Path, **description: object) -> ModelSettings:
    """Return the ``[[models]]`` entry of a bundle, with its digest."""
    return ModelSettings.model_validate(
        {"name": bundle.name, "bundle": str(bundle), "digest": digest_of(bundle)} | description
    )


def site(folder: Path, datasets: Sequence[Dataset], *models: ModelSettings, **settings: Mapping[str, Any]) -> Site:
    """Return a site that holds the instances, and has planned what its models do with them."""
    sections = {"inference": {"devices": ["cpu"]}, **settings}
    made = Settings.model_validate({**sections, "models": {model.name: model for model in models}, "base_dir": folder})
    paths, headers = {}, {}
    series: dict[str, list[StoredInstance]] = {}
    for path in save_series(datasets, folder / "images"):
        dataset = dcmread(path, specific_tags=list(HEADER_KEYWORDS))
        header = InstanceHeader.of(dataset, dataset.file_meta.TransferSyntaxUID)
        paths[header.sop_instance_uid], headers[header.sop_instance_uid] = path, header
        stored = StoredInstance(header, derive_uid(header.sop_instance_uid), "", "", 1, "X", datetime.now(UTC))
        series.setdefault(header.series_instance_uid, []).append(stored)
    return Site(made, folder, paths, headers, plan_study(made, read_cards(made), series))
