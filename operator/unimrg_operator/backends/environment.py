"""The environment of an attempt's container: what the launcher is told, and credentials by reference only."""

from __future__ import annotations

from kubernetes.client import (
    V1EnvVar,
    V1EnvVarSource,
    V1ObjectFieldSelector,
    V1SecretKeySelector,
)

from unimrg_api import cluster
from unimrg_api.environment import PodEnvironment
from unimrg_api.job import SecretSpec
from unimrg_api.load import process_spec
from unimrg_operator.backends.base import Attempt
from unimrg_operator.backends.children import child_name
from unimrg_operator.backends.profile import SiteProfile

CHECK_GRACE_SECONDS = 30
"""Of the check, which has nothing to save."""
_ONE_POD = ("prepare", "evaluate", "finish")
"""Stages that work in one pod and do not ask how the training is split."""
_STORAGE_KEYS = {"AWS_ACCESS_KEY_ID": False, "AWS_SECRET_ACCESS_KEY": False, "AWS_SESSION_TOKEN": True}
_TRACKING_KEYS = {"MLFLOW_TRACKING_USERNAME": True, "MLFLOW_TRACKING_PASSWORD": True, "MLFLOW_TRACKING_TOKEN": True}
"""Variables that are keys of a Secret, and whether the Secret may lack them."""


def pod_environment(attempt: Attempt) -> PodEnvironment:
    """Return what the launcher is told. Node rank and pod address are those of nobody: each pod knows its own.

    Raises UserError for a job that is too large to be handed to processes.
    """
    spec = attempt.job.spec
    return PodEnvironment(
        job=attempt.job.metadata.name,
        uid=attempt.uid,
        attempt=str(attempt.train_attempt),
        spec=process_spec(attempt.job),
        nodes=1 if attempt.stage in _ONE_POD else spec.trainer.nodes,
        processes=spec.trainer.gpus_per_node or spec.trainer.processes_per_node,
        master_address=f"{child_name(attempt)}-worker-0" if attempt.stage == "train" else PodEnvironment.master_address,
        stall_timeout=spec.run_policy.stall_timeout_seconds,
        grace=grace_seconds(attempt),
    )


def grace_seconds(attempt: Attempt) -> int:
    """Return the seconds between SIGTERM and SIGKILL."""
    return CHECK_GRACE_SECONDS if attempt.stage == "check" else attempt.job.spec.checkpoint.grace_seconds


def variables(attempt: Attempt, profile: SiteProfile) -> list[V1EnvVar]:
    """Return the environment of the container. Raises UserError as `pod_environment` does."""
    own = pod_environment(attempt).to_environ()
    fields = {"UNIMRG_POD_IP": "status.podIP"}
    if attempt.stage == "train":
        fields["UNIMRG_NODE_RANK"] = f"metadata.labels['{cluster.NODE_RANK_LABEL}']"
    spec = attempt.job.spec
    return [
        *(_field(name, fields[name]) if name in fields else _literal(name, value) for name, value in own.items()),
        # Libraries look for a folder to write to and for the name of a user whom the image may not know.
        _literal("HOME", "/tmp"),
        _literal("USER", "unimrg"),
        *_from_secret(spec.storage.credentials, _STORAGE_KEYS),
        *_from_secret(spec.tracking.mlflow.credentials, _TRACKING_KEYS),
        *(_literal(name, value) for name, value in sorted(profile.environment.items())),
    ]


def _literal(name: str, value: str) -> V1EnvVar:
    # A kubelet would put other variables in place of $(NAME); $$ is how it is told to leave a $ alone.
    return V1EnvVar(name=name, value=value.replace("$", "$$"))


def _field(name: str, path: str) -> V1EnvVar:
    return V1EnvVar(name=name, value_from=V1EnvVarSource(field_ref=V1ObjectFieldSelector(field_path=path)))


def _from_secret(secret: SecretSpec | None, keys: dict[str, bool]) -> list[V1EnvVar]:
    """Return each key of a Secret as the variable of its name; `keys` says which of them may be missing."""
    if secret is None:
        return []
    sources = {
        key: V1SecretKeySelector(name=secret.secret_name, key=key, optional=optional or None)
        for key, optional in keys.items()
    }
    return [V1EnvVar(name=key, value_from=V1EnvVarSource(secret_key_ref=source)) for key, source in sources.items()]
