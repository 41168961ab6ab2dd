"""Containers that a node cannot make: a Secret, config map or volume that its pod names is not there."""

from __future__ import annotations

import re

from unimrg_api.job import UniMRGJob
from unimrg_operator.core.trouble.finding import Finding, Trouble, last_cause, shorten

_MISSING = re.compile(r'(secret|configmap) "?([^" ]+)"? not found', re.IGNORECASE)
_MISSING_KEY = re.compile(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)", re.IGNORECASE)


def container_trouble(reason: str, message: str, warnings: tuple[str, ...], job: UniMRGJob) -> Finding | None:
    """Return why a pod's containers cannot be made; None where they can.

    `warnings` are the texts of events about the pod: a volume that cannot be mounted shows only there.
    """
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return _missing(message, job) or Finding(
            Trouble.CONTAINER_CONFIG_INVALID,
            f"the node cannot make the container: {shorten(last_cause(message), 120)}",
            "correct what it names; kubectl describe pod shows more",
        )
    for warning in warnings:
        kind, _, text = warning.partition(": ")
        if kind in ("FailedMount", "FailedAttachVolume"):
            return _missing(text, job) or Finding(
                Trouble.VOLUME_NOT_MOUNTED,
                f"a volume cannot be mounted: {shorten(last_cause(text), 120)}",
                "check the claims in spec.trainer.volumes and their storage",
            )
    return None


def _missing(text: str, job: UniMRGJob) -> Finding | None:
    if key := _MISSING_KEY.search(text):
        name, kind = key[3].rpartition("/")[2], key[2]
        return _finding(kind, name, f'{kind} "{name}" has no key {key[1]}', "add the key", job)
    if found := _MISSING.search(text):
        kind, name = ("Secret" if found[1].lower() == "secret" else "ConfigMap"), found[2]
        return _finding(kind, name, f'{kind} "{name}" does not exist', "create it in the job's namespace", job)
    return None


def _finding(kind: str, name: str, cause: str, remedy: str, job: UniMRGJob) -> Finding:
    reason = Trouble.SECRET_MISSING if kind.lower() == "secret" else Trouble.CONFIG_MAP_MISSING
    named = {
        "spec.storage.credentials.secretName": job.spec.storage.credentials,
        "spec.tracking.mlflow.credentials.secretName": job.spec.tracking.mlflow.credentials,
    }
    fields = [field for field, secret in named.items() if secret is not None and secret.secret_name == name]
    correct = f", or correct {' and '.join(fields)}" if fields and reason is Trouble.SECRET_MISSING else ""
    return Finding(reason, cause, f"{remedy}{correct}: the job goes on by itself")
