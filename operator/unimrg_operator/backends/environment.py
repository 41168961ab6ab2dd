"""The environment of an attempt's container: the launcher's variables, and credentials by reference only."""

from __future__ import annotations

from kubernetes import client as k8s

from unimrg_api import cluster
from unimrg_api.environment import PodEnvironment
from unimrg_api.job import SecretSpec
from unimrg_api.load import process_spec
from unimrg_api.stages import STAGES
from unimrg_operator.backends.base import Attempt
from unimrg_operator.backends.profile import SiteProfile

_STORAGE_KEYS = {"AWS_ACCESS_KEY_ID": False, "AWS_SECRET_ACCESS_KEY": False, "AWS_SESSION_TOKEN": True}
_TRACKING_KEYS = {"MLFLOW_TRACKING_USERNAME": True, "MLFLOW_TRACKING_PASSWORD": True, "MLFLOW_TRACKING_TOKEN": True}
"""Variables that are keys of a Secret, and whether the Secret may lack them."""


def pod_environment(attempt: Attempt, master_address: str = PodEnvironment.master_address) -> PodEnvironment:
    """Return the launcher's variables. Node rank and pod address are not filled in: they differ between the pods.

    Raises UserError for a job that is too large to be handed to processes.
    """
    spec, row = attempt.job.spec, STAGES[attempt.stage]
    return PodEnvironment(
        job=attempt.job.metadata.name,
        uid=attempt.uid,
        attempt=str(attempt.train_attempt),
        spec=process_spec(attempt.job),
        nodes=row.nodes(attempt.job),
        processes=spec.trainer.gpus_per_node or spec.trainer.processes_per_node,
        master_address=master_address,
        stall_timeout=spec.run_policy.stall_timeout_seconds,
        grace=row.grace(attempt.job),
    )


def variables(attempt: Attempt, profile: SiteProfile, node_rank: str | None, master_address: str) -> list[k8s.V1EnvVar]:
    """Return the environment of the container; see `pod.template`. Raises UserError as `pod_environment` does."""
    own = pod_environment(attempt, master_address).to_environ()
    fields = {"UNIMRG_POD_IP": "status.podIP"}
    if node_rank is not None:
        fields[cluster.NODE_RANK_VARIABLE] = node_rank
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


def _literal(name: str, value: str) -> k8s.V1EnvVar:
    # A kubelet would put other variables in place of $(NAME); it takes $$ for one $.
    return k8s.V1EnvVar(name=name, value=value.replace("$", "$$"))


def _field(name: str, path: str) -> k8s.V1EnvVar:
    return k8s.V1EnvVar(name=name, value_from=k8s.V1EnvVarSource(field_ref=k8s.V1ObjectFieldSelector(field_path=path)))


def _from_secret(secret: SecretSpec | None, keys: dict[str, bool]) -> list[k8s.V1EnvVar]:
    """Return each key of a Secret as the variable of its name; `keys` says which of them may be missing."""
    if secret is None:
        return []
    found = []
    for key, optional in keys.items():
        source = k8s.V1SecretKeySelector(name=secret.secret_name, key=key, optional=optional or None)
        found.append(k8s.V1EnvVar(name=key, value_from=k8s.V1EnvVarSource(secret_key_ref=source)))
    return found
