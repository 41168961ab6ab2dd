"""Pods for which no node is found: the scheduler's reason, shortened, and what would make room."""

from __future__ import annotations

import re

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import Stage
from unimrg_operator.core.trouble.finding import Finding, Trouble, shorten, size_field, some_of

_AFTERTHOUGHT = re.compile(r"[.,]? (?:preemption: |no new claims to deallocate).*")
_CLAIM_MISSING = re.compile(r'persistentvolumeclaim "([^"]+)" (?:not found|is being deleted)')
_CLAIM_UNBOUND = re.compile(r"unbound immediate PersistentVolumeClaims|find available persistent volumes to bind")
_SHORT_OF = re.compile(r"Insufficient (\S+?)[.,]?(?:\s|$)")


def scheduling_trouble(
    reason: str, message: str, definition: Stage, job: UniMRGJob, excluded_nodes: list[str]
) -> Finding | None:
    """Return why a pod has no node; None where that is not what it waits for."""
    if reason != "Unschedulable":
        return None
    claims = [volume.claim_name for volume in job.spec.trainer.volumes]
    if missing := _CLAIM_MISSING.search(message):
        remedy = "create it in the job's namespace, or correct claimName in spec.trainer.volumes"
        return Finding(Trouble.CLAIM_MISSING, f'PersistentVolumeClaim "{missing[1]}" does not exist', remedy)
    if _CLAIM_UNBOUND.search(message):
        cause = f"PersistentVolumeClaim {some_of(claims)} has no volume yet"
        remedy = f"kubectl describe pvc {claims[0] if claims else ''} says why; as a rule its storage class is wrong"
        return Finding(Trouble.CLAIM_UNBOUND, cause, remedy)
    cause = shorten(_AFTERTHOUGHT.sub("", message).rstrip("."), 140) or "the scheduler finds no node"
    return Finding(Trouble.UNSCHEDULABLE, cause, _remedy(message, definition, job, excluded_nodes))


def _remedy(message: str, definition: Stage, job: UniMRGJob, excluded_nodes: list[str]) -> str:
    short_of = _SHORT_OF.findall(message)
    size = size_field(definition, job)
    devices = [name for name in short_of if "/" in name]
    if devices:
        return f"wait until {devices[0]} is free, or ask for less: spec.trainer.gpusPerNode, spec.trainer.nodes"
    if "memory" in short_of or "cpu" in short_of:
        names = " and ".join(name for name in ("cpu", "memory") if name in short_of)
        return f"wait until {names} is free, or lower {size} ({names}) in the site profile"
    if "ephemeral-storage" in short_of:
        return "free disk space on the nodes, or lower cacheSize in the site profile"
    if "volume node affinity conflict" in message:
        return "the volume of a claim in spec.trainer.volumes is tied to other nodes: use one that all nodes reach"
    if "affinity" in message:
        if excluded_nodes:
            return f"the job avoids {some_of(excluded_nodes)} after faults there: add nodes, or start a new job"
        return "correct nodeSelector in the site profile, or label the nodes"
    if "taint" in message:
        own = "a site's own taint belongs in tolerations of its profile"
        return f"wait for nodes that are not ready (kubectl get nodes); {own}"
    if "unschedulable" in message:
        return "nodes are cordoned: kubectl uncordon NODE"
    return "kubectl describe pod shows more"
