"""A job whose data is encoded when it is prepared trains to the same bits as one that encodes in every step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import Whole, assert_same
from tests.support.local_jobs import tiny_job
from tests.support.one_step import FAMILIES
from tests.support.train_stage import newest, run_stage
from unimrg_api.environment import PodEnvironment
from unimrg_api.stages import STAGES, PodSize
from unimrg_trainer.job_stores import data_digest, image_encoder, wanted_digest
from unimrg_trainer.preparation.prepare import prepare
from unimrg_trainer.storage import LocalStore

pytestmark = pytest.mark.timeout(120)
SHEET = Path("results", "contact_sheet.png")


def train(folder: Path, family: str, when: str, attempt: int, monkeypatch: pytest.MonkeyPatch) -> Whole:
    """Prepare and train two steps; every run has shards, checkpoints and a pod of its own."""
    changes = {"model": {family: {"variant": "Tiny"}}, "training__stopStep": 2, "data__imageEncoding": when}
    job, _ = tiny_job(folder, **changes, data__shards=[f"file://data-{when}"], checkpoint__uri=f"file://run-{when}")
    env = PodEnvironment(spec_base=folder, cache=folder / "cache")
    store = LocalStore(folder / f"data-{when}")
    assert job.spec.data.sources is not None
    prepared = prepare(job.spec.data.sources, folder, store, lambda *_: None, image_encoder(job, env))
    assert prepared.digest == wanted_digest(job, env) == data_digest(job, env)
    run_stage(folder, job, attempt, monkeypatch)
    return newest(folder / f"run-{when}", job.training_digest(prepared.digest))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_same_to_the_bit(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [train(tmp_path, family, when, n, monkeypatch) for n, when in enumerate(("Online", "Prepared"))]
    assert_same(*runs)
    sheets = [(tmp_path / f"pod-{n}" / SHEET).read_bytes() for n in (0, 1)]
    assert sheets[0] == sheets[1]  # it is decoded from what was stored


@pytest.mark.parametrize(
    ("gpus", "when", "expected"),
    [(8, "Prepared", PodSize.GPU), (8, "Online", PodSize.CPU), (0, "Prepared", PodSize.CPU)],
)
def test_the_prepare_stage_gets_gpus_only_where_it_encodes(
    gpus: int, when: str, expected: PodSize, tmp_path: Path
) -> None:
    job, _ = tiny_job(tmp_path, trainer={"gpusPerNode": gpus}, data__imageEncoding=when)
    assert STAGES["prepare"].pod_size(job) is expected
