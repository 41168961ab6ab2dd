"""Stand-in for both engines in tests of stages and `unimrg run`: real ranks, a real spool and commits of nothing.

FAKE_TRAIN and FAKE_EVALUATE choose what happens: `complete` (default), `wait` (until asked to stop),
`fail` (a bug), `refuse` (a user's mistake), `early` (a bug before anything is committed).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time

from unimrg_api.commits import SUMMARY_KEY
from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import Interrupted, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.job import UniMRGJob
from unimrg_api.load import parse_job
from unimrg_api.progress import Progress
from unimrg_trainer.evaluation.summary import Summary
from unimrg_trainer.job_stores import run_store
from unimrg_trainer.launch.rank import run
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.storage import ObjectStore
from unimrg_trainer.tracking.spool import Spool

LIMIT_SECONDS = 60.0


def work(env: PodEnvironment, stop: StopRequest) -> None:
    """Do what the stage's variable says."""
    stage = sys.argv[1]
    job = parse_job(json.loads(env.spec))
    store = run_store(job, env)
    script = os.environ.get(f"FAKE_{stage.upper()}", "complete")
    if os.environ["RANK"] != "0":
        wait(stop) if script == "wait" else None
        return
    step = 5 if script == "wait" else job.spec.training.resolved_stop_step() if job.spec.trains else 0
    if script == "early":
        raise RuntimeError("no step was taken")
    report(env, job, stage, step)
    if stage == "train":
        spool = Spool(env.run_dir / "spool", int(env.attempt))
        spool.begin(0)
        spool.step(step, {"train/loss": 1.0})
    if script == "fail":
        raise RuntimeError("the loss went for a walk")
    if script == "refuse":
        raise UserError("shard 3 is damaged", remedy="prepare it again", exit_code=ExitCode.DATA_CORRUPT)
    if script == "wait":
        wait(stop)
    if stage == "train":
        commit(store, step)
        spool.close_segment()
    else:
        store.put(SUMMARY_KEY, summary(env, job, step).to_json().encode())
    if script == "wait":
        raise Interrupted(f"stopped after step {step}; a checkpoint was saved")


def commit(store: ObjectStore, step: int) -> None:
    """Commit no tensors, as the checkpoint room would, but without torch."""
    folder = f"ckpt/step-{step:08d}/attempt-1-0123abcd/"
    share = b"no tensors"
    entry = {"size": len(share), "chunk_bytes": 100, "sha256": [hashlib.sha256(share).hexdigest()]}
    texts = dict.fromkeys(("uid", "strategy", "reason", "created", "training_digest", "data_digest"), "fake")
    numbers = {"schema_version": 2, "step": step, "attempt": 1, "world_size": 1}
    empty = {"mlflow_run_id": None, "spool_segments": [], "tensors": {}}
    manifest = json.dumps({**texts, **numbers, **empty, "objects": {"rank-0.safetensors": entry}}).encode()
    marker = {"schema_version": 2, "manifest": f"{folder}manifest.json", "sha256": hashlib.sha256(manifest).hexdigest()}
    store.put(f"{folder}rank-0.safetensors", share)
    store.put(f"{folder}manifest.json", manifest)
    store.put(f"ckpt/step-{step:08d}/COMMITTED-0", json.dumps(marker).encode())


def wait(stop: StopRequest) -> None:
    """Until asked to stop."""
    give_up = time.monotonic() + LIMIT_SECONDS
    while not stop.requested and time.monotonic() < give_up:
        time.sleep(0.02)


def report(env: PodEnvironment, job: UniMRGJob, stage: str, step: int) -> None:
    """Write progress as rank 0 does."""
    total = job.spec.training.resolved_stop_step()
    progress = Progress(stage=stage, step=step, total_steps=total, updated=time.time())  # type: ignore[arg-type]
    (env.run_dir / "progress.json").write_text(progress.to_json())


def summary(env: PodEnvironment, job: UniMRGJob, step: int) -> Summary:
    """Results without scores."""
    return Summary(
        job=job.metadata.name,
        uid=env.uid,
        model="Harmon Tiny",
        method=job.spec.method,
        steps=step,
        seconds=1.0,
        processes=env.processes,
    )


if __name__ == "__main__":
    run(work)
