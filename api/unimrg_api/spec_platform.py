"""The part of a job that says where it runs and where its data, checkpoints and records are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unimrg_api.fields import Spec, Uri

MAXIMUM_SCENES = 10_000_000

_OBJECT_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

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
    service_account_name: Annotated[str, Field(pattern=_OBJECT_NAME, max_length=253)] = "default"
    """Service account of the job's pods, for stores that know it. They get no token for the cluster's API."""
    volumes: Annotated[list[VolumeSpec], Field(max_length=8)] = Field(default=[])
    """Volumes that every pod mounts, so that `file://` works on a cluster."""


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


class SecretSpec(Spec):
    """A secret of the job's namespace, by name; its values never enter a job."""

    secret_name: Annotated[str, Field(pattern=_OBJECT_NAME, max_length=253)]
    """Name of the Secret."""


class StorageSpec(Spec):
    """The object store behind every `s3://` URI of the job."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s@/]+/?$", max_length=512)] | None = None
    """Address of the service. Absent: AWS_ENDPOINT_URL of the environment, else AWS itself."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$", max_length=63)] | None = None
    """Region. Absent: that of the environment, else us-east-1."""
    addressing: Literal["Auto", "Path", "Virtual"] = "Auto"
    """Where the bucket's name goes: into the path, or into the host name (Virtual). Auto: what botocore
    chooses."""
    checksums: Literal["WhenSupported", "WhenRequired"] = "WhenSupported"
    """Checksums that botocore adds to requests and verifies in replies; stores that do not know them need
    WhenRequired."""
    credentials: SecretSpec | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, if need be) for a
    cluster. Absent: the identity of the service account. `unimrg run` takes the environment's."""


class VolumeSpec(Spec):
    """A volume that every pod of the job mounts."""

    claim_name: Annotated[str, Field(pattern=_OBJECT_NAME, max_length=253)]
    """Name of the PersistentVolumeClaim."""
    mount_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$", max_length=512)]
    """Where it is mounted; `file://` URIs below it work on a cluster."""
    read_only: Literal["Always", "Never"] = "Never"
    """Whether it is mounted for reading only."""


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
    credentials: SecretSpec | None = None
    """Secret with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, for a
    cluster. `unimrg run` takes the environment's."""


class TrackingSpec(Spec):
    """Where losses and scores are recorded."""

    mlflow: MlflowSpec = MlflowSpec()
    """A run in MLflow."""


class RunPolicySpec(Spec):
    """When an attempt is given up."""

    stall_timeout_seconds: Annotated[int, Field(ge=60, le=86_400)] = 900
    """Seconds without a finished step after which an attempt is ended and restarted."""
    max_restarts: Annotated[int, Field(ge=0, le=100)] = 3
    """Restarts, per stage, after failures of the program itself."""
    max_infra_restarts: Annotated[int, Field(ge=0, le=1000)] = 20
    """Restarts, per stage, after failures of machines, networks and stores."""
    backoff_seconds: Annotated[int, Field(ge=0, le=3600)] = 10
    """Seconds before a restart; doubled with every failure in a row without a new commit."""
    max_backoff_seconds: Annotated[int, Field(ge=0, le=86_400)] = 600
    """Most seconds before a restart."""
