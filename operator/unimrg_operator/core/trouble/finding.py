"""What is said about everyday trouble: a reason, what happened, and what to do about it (docs/how-to/trouble.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import PodSize, Stage

CAUSE_LIMIT = 170
"""Characters of a cause; longer ones are cut."""
_NODES_NAMED = 3

PROFILE_FIELDS = {PodSize.SMALL: "resources.smallPod", PodSize.CPU: "resources.cpuPod", PodSize.GPU: "resources.gpuPod"}
"""Field of the site profile with the resources of a pod."""


class Trouble(StrEnum):
    """Reasons of trouble that a person can mend, as conditions and events show them."""

    IMAGE_PULL = "ImagePull"
    UNSCHEDULABLE = "Unschedulable"
    SECRET_MISSING = "SecretMissing"
    CONFIG_MAP_MISSING = "ConfigMapMissing"
    CONTAINER_CONFIG_INVALID = "ContainerConfigInvalid"
    CLAIM_MISSING = "VolumeClaimMissing"
    CLAIM_UNBOUND = "VolumeClaimUnbound"
    VOLUME_NOT_MOUNTED = "VolumeNotMounted"
    QUOTA_EXCEEDED = "QuotaExceeded"
    LIMIT_RANGE = "LimitRangeExceeded"
    POD_SECURITY = "PodSecurityViolation"
    SERVICE_ACCOUNT_MISSING = "ServiceAccountMissing"
    PRIORITY_CLASS_MISSING = "PriorityClassMissing"
    PODS_REFUSED = "PodsRefused"
    CHILD_REFUSED = "ChildRefused"
    RIGHT_MISSING = "RightMissing"
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    BACKEND_MISSING = "BackendMissing"
    BACKEND_UNAVAILABLE = "BackendUnavailable"
    TRACKING_UNAVAILABLE = "TrackingUnavailable"


@dataclass(frozen=True)
class Finding:
    """One trouble, with its cause and its remedy."""

    reason: Trouble
    cause: str
    remedy: str

    @property
    def message(self) -> str:
        """Cause and remedy in one line of about 250 characters at most."""
        return f"{shorten(self.cause, CAUSE_LIMIT)}; {self.remedy}"


def shorten(text: str, limit: int) -> str:
    """Return one line of at most `limit` characters, cut between words where it is too long."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    cut = line[: limit - 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut[limit // 2 :] else cut) + "…"


def shorten_middle(text: str, limit: int) -> str:
    """Return a name of at most `limit` characters, without its middle where it is too long."""
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]}…{text[head + 1 - limit :]}"


def last_cause(text: str) -> str:
    """Return the last link of Go's chain of causes: `a: b: c` is `c`."""
    return re.split(r":\s", " ".join(text.split()).rstrip(". "))[-1]


def some_of(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - _NODES_NAMED
    return ", ".join(names[:_NODES_NAMED]) + (f" and {more} more" if more > 0 else "")


def size_field(definition: Stage, job: UniMRGJob) -> str:
    """Return the field of the site profile with the resources of a stage's pods."""
    return PROFILE_FIELDS[definition.pod_size(job)]


def image_field(job: UniMRGJob) -> str:
    """Return where the image is named."""
    return "spec.image" if job.spec.image is not None else "image in the site profile"
