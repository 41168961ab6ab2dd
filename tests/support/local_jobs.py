"""Jobs for tests that need a real file, a real folder and next to no data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unimrg_api.job import UniMRGJob
from unimrg_api.load import load_job
from unimrg_trainer.preparation.prepare import prepare
from unimrg_trainer.storage import LocalStore

WITH_IMAGES = [
    {"scenes": {"train": 4, "heldOut": 2, "imageSize": 32, "seed": 1}},
    {"images": {"uri": "file://photographs"}},
]
"""Sources of a job whose folder of images is not there."""


def tiny_job(folder: Path, **changes: Any) -> tuple[UniMRGJob, Path]:
    """Write a job of four scenes and twelve steps into `folder` and load it: (job, its file).

    `changes` replace fields of spec by dotted path, dots written as two underscores: `training__seed=7`.
    """
    content: dict[str, Any] = {
        "apiVersion": "training.unimrg.dev/v1alpha1",
        "kind": "UniMRGJob",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": {"harmon": {"variant": "Tiny"}},
            "training": {
                "batch": {"rowsPerObjective": 4, "cohortRows": 2, "microBatchRows": 2},
                "schedule": {"warmupSteps": 1, "totalSteps": 12},
            },
            "trainer": {"gpusPerNode": 0, "processesPerNode": 1},
            "data": {
                "sources": [{"scenes": {"train": 4, "heldOut": 2, "imageSize": 32, "seed": 1}}],
                "shards": ["file://data"],
            },
            "checkpoint": {"uri": "file://run", "everySteps": 4, "graceSeconds": 30},
            "runPolicy": {"stallTimeoutSeconds": 60},
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = content["spec"]
        for name in parents:
            place = place.setdefault(name, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    file = folder / "job.yaml"
    file.write_text(json.dumps(content))  # JSON is YAML
    return load_job(file), file


def prepare_data(job: UniMRGJob, folder: Path) -> None:
    """Prepare the data of a job that lies in `folder`."""
    assert job.spec.data.sources is not None
    prepare(job.spec.data.sources, folder, LocalStore(folder / "data"), lambda *_: None)
