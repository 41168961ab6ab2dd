"""Set-up shared by training and evaluation: process group, family, objectives, stores, data."""

from __future__ import annotations

import datetime
import logging
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import resolve_uri
from unimrg_api.job import UniMRGJob
from unimrg_trainer.engine.choices import open_family, provide_files
from unimrg_trainer.engine.initial_weights import PublishedWeights
from unimrg_trainer.job_stores import data_digest, data_store, run_store
from unimrg_trainer.models.base import Family
from unimrg_trainer.objectives.base import Objective
from unimrg_trainer.objectives.registry import in_order, objective
from unimrg_trainer.storage.base import ObjectStore

logger = logging.getLogger(__name__)

GROUP_TIMEOUT = datetime.timedelta(minutes=10)
"""Time-out of a collective."""


@dataclass(frozen=True)
class Setup:
    """Everything that a rank opens or derives from the job."""

    env: PodEnvironment
    job: UniMRGJob
    rank: int
    world_size: int
    device: torch.device
    family: Family
    objective_weights: dict[str, float]
    objectives: list[Objective]
    run_store: ObjectStore
    data_store: ObjectStore
    data_digest: str
    initial_weights: PublishedWeights | None
    """The published weights that training starts from; None: random weights from the seed."""


def join_group(gpus_per_node: int) -> tuple[int, int, torch.device]:
    """Join the process group; return (rank, world size, device). A job without GPUs stays on the CPU.

    Raises UserError (80) if a job for GPUs finds none: it never falls back to the CPU.
    """
    cuda = gpus_per_node > 0
    if cuda and not torch.cuda.is_available():
        raise UserError(
            f"spec.trainer.gpusPerNode is {gpus_per_node}, and torch finds no usable GPU in this process",
            remedy="look at the node's driver and device plugin, or set spec.trainer.gpusPerNode: 0",
            exit_code=ExitCode.GPU_FAULT,
        )
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=GROUP_TIMEOUT)
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return dist.get_rank(), dist.get_world_size(), device


def set_up(env: PodEnvironment, job: UniMRGJob) -> Setup:
    """Join the group and open everything that the job names."""
    rank, world_size, device = join_group(job.spec.trainer.gpus_per_node)
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads:
        torch.set_num_threads(int(threads))  # bit-exact resume needs a fixed number
    family = open_family(job, env)
    provide_files(job, env, family)  # before the model is built
    # in the registry's order: row order is part of dropout's rng key, and the job's order must not change it
    wanted = {name: weight for name, weight in job.spec.resolved_objectives().items() if weight > 0}
    weights = {name: wanted[name] for name in in_order(wanted)}
    return Setup(
        env=env,
        job=job,
        rank=rank,
        world_size=world_size,
        device=device,
        family=family,
        objective_weights=weights,
        objectives=[objective(name, job.spec.training.prompts) for name in weights],
        run_store=run_store(job, env),
        data_store=data_store(job, env),
        data_digest=data_digest(job, env),
        initial_weights=published_weights(env, job),
    )


def published_weights(env: PodEnvironment, job: UniMRGJob) -> PublishedWeights | None:
    """Location of the job's initial weights; None if they are random."""
    init = job.spec.model.init
    return PublishedWeights(resolve_uri(init, env.spec_base), job.spec.storage, env.cache) if init else None
