"""Set-up shared by training and evaluation: process group, family, objectives, stores, data."""

from __future__ import annotations

import datetime
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import Interrupted, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import resolve_uri
from unimrg_api.job import UniMRGJob
from unimrg_trainer.checkpoint.agreement import TorchAgreement, on_first_rank
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.mixture import Data, Mixture, mixture_digest
from unimrg_trainer.data.publication import Publication
from unimrg_trainer.engine.choices import open_family, provide_files
from unimrg_trainer.engine.initial_weights import WeightsSource
from unimrg_trainer.engine.operations import StepOperations, open_operations
from unimrg_trainer.engine.stopping import StopFlag
from unimrg_trainer.engine.strategies.base import PARAMETER_DTYPES
from unimrg_trainer.job_stores import data_stores, find_data, require_contents, run_store, wanted_digest
from unimrg_trainer.models.base import Family
from unimrg_trainer.objectives.base import Objective
from unimrg_trainer.objectives.registry import in_order, objective
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.sections import SectionFile
from unimrg_trainer.storage.base import ObjectStore
from unimrg_trainer.storage.patient import PatientStore, Waits

logger = logging.getLogger(__name__)

GROUP_TIMEOUT = datetime.timedelta(minutes=10)
"""Time-out of a collective, beyond how long another rank may wait for the storage."""


@dataclass(frozen=True)
class Setup:
    """Everything that a rank opens or derives from the job."""

    env: PodEnvironment
    job: UniMRGJob
    rank: int
    world_size: int
    gloo_group: dist.ProcessGroup
    """For what the ranks agree on from the host: stop requests, checkpoints."""
    device: torch.device
    family: Family
    objective_weights: dict[str, float]
    objectives: list[Objective]
    run_store: ObjectStore
    data_sets: list[tuple[ObjectStore, Publication]]
    """Each data set with its store; reads ride out outages."""
    waits: Waits
    data_digest: str
    """Of all of them, and of how they are mixed."""
    initial_weights: WeightsSource | None
    """The published weights that training starts from; None: random weights from the seed."""

    @property
    def parameter_dtype(self) -> torch.dtype:
        """Type of weights and moments."""
        return PARAMETER_DTYPES[self.job.spec.training.precision]

    @cached_property
    def composition(self) -> Composition:
        """How rows are laid out on this device. FlexAttention needs a GPU and a C compiler, and computes in float32.

        Raises UserError (64) where the job insists on it and there is no compiler.
        """
        training = self.job.spec.training
        flex = self.device.type == "cuda" and training.precision != "FP64"
        if flex and training.composition in ("Packed", "PackedFlex") and not has_compiler():
            missing = "there is no C compiler, which FlexAttention's kernels need"
            if training.composition == "PackedFlex":
                raise UserError(
                    f"spec.training.composition: {missing}", remedy="use Packed, or an image with gcc or another cc"
                )
            logger.warning("%s: packed rows use PackedGrouped", missing)
            flex = False
        return Composition.chosen(training.composition, flex=flex)

    @cached_property
    def operations(self) -> StepOperations | None:
        """What counts the operations of this rank's steps; None where their share of a peak is not known, and on other
        ranks than 0, which report nothing."""
        return open_operations(self.job.spec, self.device) if self.rank == 0 else None

    @property
    def same_images(self) -> bool:
        """Whether questions are about the images that a step generates."""
        return self.job.spec.training.batch.image_sharing == "All"

    def has_split(self, split: str) -> bool:
        """Whether any of the job's data sets has a split."""
        return any(split in publication.manifests for _, publication in self.data_sets)

    def open_data(self, split: str) -> Data:
        """Open a split of the job's data: of every data set, or, of another split than `train`, of those that have it.

        Raises UserError: 66 where it is missing, 65 if it lacks what rows need.
        """
        data_sets = self.data_sets
        if len(data_sets) > 1 and split != "train":
            data_sets = [one for one in data_sets if split in one[1].manifests] or data_sets[:1]
        parts = [Dataset.of(*one, split, square=self.same_images) for one in data_sets]
        weights = self.job.spec.data.proportions() if split == "train" else None
        require_contents(self.job, parts)
        return parts[0] if len(parts) == 1 else Mixture(parts, weights)


def has_compiler() -> bool:
    """Whether there is a C compiler, which torch.compile and FlexAttention need."""
    return any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc"))


def waiting(sections: SectionFile, stop: StopFlag) -> Waits:
    """Return what a stage does while it waits for the storage: it ticks, and ends where a stop is requested."""

    def raise_if_stopped() -> None:
        if stop.requested:
            raise Interrupted("stopped while it waited for the storage; the last checkpoint is kept")

    return Waits(sections.tick, raise_if_stopped=raise_if_stopped)


def join_group(gpus_per_node: int, timeout: datetime.timedelta = GROUP_TIMEOUT) -> tuple[int, int, torch.device]:
    """Join the process group; return (rank, world size, device). A job without GPUs stays on the CPU.

    Raises UserError (80) if a job for GPUs finds none: it never falls back to the CPU.
    """
    cuda = gpus_per_node > 0
    if cuda:
        require_gpu(gpus_per_node)
        local_rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= count:
            raise UserError(
                f"process {local_rank} of this node has no GPU: torch sees {count}",
                remedy="check CUDA_VISIBLE_DEVICES and the node's device plugin, or lower spec.trainer.gpusPerNode",
                exit_code=ExitCode.PREFLIGHT,
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timeout)
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return dist.get_rank(), dist.get_world_size(), device


def require_gpu(gpus_per_node: int) -> None:
    """Raise UserError (80) unless torch can use a GPU, of so many that the job asks for."""
    if not torch.cuda.is_available():
        raise UserError(
            f"spec.trainer.gpusPerNode is {gpus_per_node}, and torch finds no usable GPU in this process",
            remedy="check the NVIDIA driver and the device plugin of the node, or set spec.trainer.gpusPerNode: 0",
            exit_code=ExitCode.GPU_FAULT,
        )


def set_up(env: PodEnvironment, job: UniMRGJob, waits: Waits) -> Setup:
    """Join the group and open everything that the job names. `waits` ticks with every piece that is fetched."""
    on_read, patience = waits.tick, job.spec.data.reading.patience_seconds
    timeout = GROUP_TIMEOUT + datetime.timedelta(seconds=patience)
    rank, world_size, device = join_group(job.spec.trainer.gpus_per_node, timeout)
    gloo_group = dist.new_group(backend="gloo", timeout=timeout)
    assert gloo_group is not None
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads:
        torch.set_num_threads(int(threads))  # bit-exact resume needs a fixed number
    family = open_family(job, env)
    provide_files(job, env, family, on_read=on_read)  # before the model is built
    # in the registry's order: row order is part of dropout's rng key, and the job's order must not change it
    wanted = {name: weight for name, weight in job.spec.resolved_objectives().items() if weight > 0}
    weights = {name: wanted[name] for name in in_order(wanted)}
    stores = [PatientStore(store, patience, waits) for store in data_stores(job, env)]
    # by one rank: sources are listed again, and every rank must mean the same data
    found = on_first_rank(
        TorchAgreement(gloo_group), "finding the data", lambda: find_data(stores, wanted_digest(job, env))
    )
    return Setup(
        env=env,
        job=job,
        rank=rank,
        world_size=world_size,
        gloo_group=gloo_group,
        device=device,
        family=family,
        objective_weights=weights,
        objectives=[objective(name, job.spec.training.prompts) for name in weights],
        run_store=run_store(job, env),
        data_sets=list(zip(stores, found, strict=True)),
        waits=waits,
        data_digest=mixture_digest([one.digest for one in found], job.spec.data.proportions()),
        initial_weights=initial_weights_source(env, job, on_read),
    )


def initial_weights_source(env: PodEnvironment, job: UniMRGJob, on_read: Callable[[], None]) -> WeightsSource | None:
    """Location of the job's initial weights; None if they are random."""
    init = job.spec.model.init
    return WeightsSource(resolve_uri(init, env.spec_base), job.spec.storage, env.cache, on_read) if init else None
