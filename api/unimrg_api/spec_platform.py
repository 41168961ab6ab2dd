"""The part of a job that says where it runs and where its data, checkpoints and records are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unimrg_api.fields import Spec, Uri

MAXIMUM_SCENES = 10_000_000

PHOTOGRAPH_SUFFIXES = (".jpg", ".jpeg", ".png")
"""What the names of photographs end with, in small letters or large ones."""


class TrainerSpec(Spec):
    """The processes that train."""

    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Pods, each on a node of its own. `unimrg run` runs one."""
    gpus_per_node: Annotated[int, Field(ge=0, le=16)] = 8
    """GPUs of each pod, one process per GPU. 0: processes on the CPU, see `processesPerNode`."""
    processes_per_node: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes of each pod where there are no GPUs. `unimrg run` takes `--processes`."""


class ScenesSpec(Spec):
    """Generated images, with exact depth, segmentation, captions and questions."""

    train: Annotated[int, Field(ge=1, le=MAXIMUM_SCENES)]
    """Scenes to train on."""
    held_out: Annotated[int, Field(ge=1, le=MAXIMUM_SCENES)]
    """Scenes kept for the evaluation; none of them is trained on."""
    image_size: Annotated[int, Field(ge=32, le=1024)]
    """Side of the square images, in pixels; below 32 the objects cannot be told apart."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)]
    """Root of the scenes' randomness: the same seed gives the same images."""


class SourceSpec(Spec):
    """What the prepare stage turns into shards, once."""

    scenes: ScenesSpec
    """Generated images to train on."""
    photographs: Uri | None = None
    """Folder of JPEG or PNG files for sample grids. They have no depth or segmentation and are not trained
    on."""


class DataSpec(Spec):
    """What is trained on."""

    source: SourceSpec | None = None
    """Absent: the shards exist. Given: the prepare stage writes them under `shards`."""
    shards: Annotated[list[Uri], Field(min_length=1, max_length=1)]
    """The prefix that holds the shards. A list, for a later version may mix several."""


class CheckpointSpec(Spec):
    """Where and when the state of training is kept."""

    uri: Uri
    """Prefix of the run: checkpoints, records, logs and results lie under it. One run has one prefix."""
    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] = 500
    """Optimiser steps between commits. The last step, and an orderly stop, commit as well."""
    keep_last: Annotated[int, Field(ge=1, le=100)] = 3
    """Committed steps to keep."""
    resume: Literal["IfPresent", "Never", "Required"] = "IfPresent"
    """What to do about commits at `uri`: go on from the newest that verifies, if there is one (IfPresent);
    refuse to run where there are any (Never); refuse to run where there is none (Required)."""
    grace_seconds: Annotated[int, Field(ge=30, le=3600)] = 300
    """Seconds that a stopping process has for its last commit."""


class MlflowSpec(Spec):
    """A run in MLflow. It is an aid: training never waits for it and does not fail because of it."""

    uri: (
        Annotated[
            str,
            Field(pattern=r"^(https?://[^\s@]+|sqlite:///\S+)$", min_length=1, max_length=2048),
        ]
        | None
    ) = None
    """Tracking server, without credentials in it. Absent: a SQLite file beside the checkpoints."""
    experiment: Annotated[str, Field(pattern=r"^\S(.*\S)?$", max_length=256)] = "unimrg"
    """Name of the experiment; it is created if it does not exist."""
    run_name: Annotated[str, Field(pattern=r"^\S(.*\S)?$", max_length=256)] | None = None
    """Name of the run. Absent: the job's name."""


class TrackingSpec(Spec):
    """Where losses and scores are recorded."""

    mlflow: MlflowSpec = MlflowSpec()
    """A run in MLflow."""


class RunPolicySpec(Spec):
    """When an attempt is given up."""

    stall_timeout_seconds: Annotated[int, Field(ge=60, le=86_400)] = 900
    """Seconds without a finished step after which an attempt is ended and restarted."""
