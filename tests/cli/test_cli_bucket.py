"""`unimrg run`, `status` and `ckpt ls` of a job whose data and checkpoints lie in a bucket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.command_line import Unimrg
from tests.support.local_jobs import tiny_job
from tests.support.s3_stores import Place
from unimrg_api.exit_codes import ExitCode
from unimrg_api.progress import Progress
from unimrg_api.termination import TerminationRecord
from unimrg_trainer.checkpoint.discover import read_weights
from unimrg_trainer.local_folders import claim_folder, run_folder


def test_a_job_in_a_bucket_runs_here_and_is_shown_from_anywhere(
    s3_place: Place, tmp_path: Path, unimrg: Unimrg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIMRG_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("UNIMRG_CACHE", str(tmp_path / "cache"))
    job, file = tiny_job(
        tmp_path,
        training__schedule={"warmupSteps": 1, "totalSteps": 4},
        data__shards=[f"{s3_place.uri}/data"],
        data__reading={"cacheGiB": 1},
        checkpoint__uri=f"{s3_place.uri}/run",
        storage=s3_place.storage.model_dump(by_alias=True, exclude_none=True) | {"credentials": {"secretName": "keys"}},
        stages={"evaluate": {"mode": "Never"}},
    )
    assert job.spec.storage.credentials is not None
    ended = unimrg("run", file)
    assert ended.code == 0, ended.out + ended.err
    assert f"Run: {s3_place.uri}/run" in ended.out
    assert "spec.storage.credentials is ignored" in ended.out
    assert list(tmp_path.glob("state/runs/*/mlflow.db"))
    assert list(tmp_path.glob("cache/shards/*/train-000000.tar.0"))
    assert [key for key, _ in s3_place.store("run").list() if "local/" in key] == []

    def shown(*arguments: object) -> Any:
        ended = unimrg(*arguments, "-o", "json")
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    here = shown("status", file)
    assert (here["state"], here["checkpoint"]["step"], here["lastEnd"]["exitCode"]) == ("Completed", 4, 0)
    assert [row["step"] for row in shown("ckpt", "ls", file)] == [4]

    monkeypatch.setenv("UNIMRG_STATE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(s3_place.storage.endpoint))
    there = shown("status", f"{s3_place.uri}/run")
    assert (there["state"], there["checkpoint"]["step"]) == ("Completed", 4)
    assert "progress" not in here and "progress" not in there  # nothing goes on any more
    assert [row["step"] for row in shown("ckpt", "ls", f"{s3_place.uri}/run")] == [4]
    assert unimrg("status", f"{s3_place.uri}/nothing").code == ExitCode.INPUT_MISSING
    assert s3_place.store("run").size("results/contact_sheet.png")

    # what was trained goes out in the published layout, and comes in again
    published, weights, again = tmp_path / "out.pth", tmp_path / "w.safetensors", tmp_path / "again.pth"
    exported = unimrg("ckpt", "export", "harmon/Tiny", f"{s3_place.uri}/run", published)
    assert exported.code == 0 and "of step 4" in exported.out, exported.err
    imported = unimrg("ckpt", "import", "harmon/Tiny", published, weights)
    assert imported.code == 0 and "spec.model.init" in imported.out, imported.err
    assert unimrg("ckpt", "export", "harmon/Tiny", weights, again).code == 0
    _, trained = read_weights(s3_place.store("run"))
    tensors, repeated = (torch.load(path, weights_only=True) for path in (published, again))
    assert tensors.keys() == repeated.keys() == trained.keys() | {"llm.lm_head.weight"}
    assert all(torch.equal(tensors[name], repeated[name]) for name in tensors)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in trained.items())


def test_a_wrong_model_or_file_of_weights_is_answered_with_the_right_ones(unimrg: Unimrg, tmp_path: Path) -> None:
    for arguments, expected in (
        (["nothing/Tiny", tmp_path], "FAMILY/VARIANT"),
        (["harmon/7B", tmp_path], "no size '7B'"),
        (["harmon/0.5B", tmp_path, "--file", "vae"], "kl16 (kl16.ckpt)"),
        (["harmon/Tiny", tmp_path, tmp_path / "x.safetensors"], "no folder that holds some"),
        (["harmon/Tiny", tmp_path], "weights.safetensors"),
    ):
        ended = unimrg("ckpt", "import", *arguments)
        assert ended.code in (ExitCode.CONFIGURATION, ExitCode.INPUT_MISSING) and expected in ended.err, ended.err


def test_local_files_of_an_earlier_training_are_not_shown(s3_place: Place, tmp_path: Path, unimrg: Unimrg) -> None:
    _, file = tiny_job(
        tmp_path,
        checkpoint__uri=f"{s3_place.uri}/run",
        storage=s3_place.storage.model_dump(by_alias=True, exclude_none=True),
    )
    folder = run_folder(f"{s3_place.uri}/run", s3_place.storage)
    claim_folder(folder, "the first")
    (folder / "progress.json").write_text(Progress(stage="train", step=7, mlflow_url="http://first").to_json())
    (folder / "termination.json").write_text(TerminationRecord(exit_code=70, message="of the first").to_json())
    s3_place.store("run").put("job.json", b'{"uid": "the first", "digest": "d"}')
    assert "of the first" in unimrg("status", file, "-o", "json").out
    s3_place.store("run").put("job.json", b'{"uid": "the second", "digest": "d"}')
    shown = json.loads(unimrg("status", file, "-o", "json").out)
    assert (shown["uid"], shown["state"]) == ("the second", "NotStarted")
    assert not shown.keys() & {"progress", "lastEnd", "mlflowUrl"}
