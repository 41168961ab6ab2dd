"""Images that cannot be pulled or started: the kubelet's chain of causes becomes image, registry's answer, remedy."""

from __future__ import annotations

import re

from unimrg_api.exit_codes import Action, Budget, Rule
from unimrg_api.job import UniMRGJob
from unimrg_operator.core.observation import Terminated
from unimrg_operator.core.trouble.finding import Finding, Trouble, image_field, last_cause, shorten, shorten_middle

IMAGE_UNUSABLE = Rule("ImageUnusable", "the image has no program unimrg-launch that can be started", Action.FAIL)
CONTAINER_NOT_STARTED = Rule(
    "ContainerNotStarted", "the node could not start the container", Action.RESTART, Budget.INFRA
)

_NAME_LIMIT = 70
_ANSWER_LIMIT = 60
_QUOTED = re.compile(r'"([^"]+)"')

_ANSWERS: tuple[tuple[str, str, str], ...] = (
    (
        r"unauthorized|authorization failed|authentication required|no basic auth|access denied|insufficient_scope"
        r"|\b401\b|\b403\b|denied: ",
        "{registry} refuses access, or has no such repository",
        "correct the name in {field}, or add a pull Secret to imagePullSecrets in the site profile",
    ),
    (
        r"\b429\b|toomanyrequests|rate limit",
        "{registry} limits how often it is asked",
        "wait, pull with credentials (imagePullSecrets in the site profile), or use a mirror",
    ),
    (
        r"manifest unknown|name unknown|not found\b|\b404\b",
        "{registry} has no such image or tag",
        "correct {field}, or push the image",
    ),
    (
        r"no such host|dial tcp: lookup|server misbehaving",
        "the name {registry} cannot be resolved on the node",
        "correct the registry's name in {field}, or the node's DNS",
    ),
    (
        r"x509|tls: |HTTP response to HTTPS",
        "the node does not trust {registry}: {last}",
        "give the node's container runtime that registry's certificate",
    ),
    (
        r"connection refused|i/o timeout|deadline exceeded|unreachable|no route to host|connection reset|\bEOF\b",
        "{registry} does not answer: {last}",
        "check the registry, and that the node can reach it",
    ),
    (r"no space left on device", "the node's disk is full", "free space on the node, or cordon it"),
    (
        r"no match for platform|exec format error",
        "the image is not made for the node's processor",
        "build it for that platform",
    ),
    (r"\b5\d\d [A-Z]", "{registry} has trouble of its own: {last}", "the pull is repeated; ask who runs the registry"),
)
"""By what the chain of causes contains: the registry's answer, and the remedy."""


def pull_trouble(reason: str, message: str, node: str | None, job: UniMRGJob) -> Finding | None:
    """Return why an image is not there; None for a waiting reason that has nothing to do with images.

    `message` is the kubelet's, with the texts of events where it says less.
    """
    if "Image" not in reason and reason != "RegistryUnavailable":
        return None
    quoted = _QUOTED.search(message)
    image = quoted[1] if quoted else (job.spec.image or "")
    name = f'image "{shorten_middle(image, _NAME_LIMIT)}"'
    field = image_field(job)
    if reason == "InvalidImageName":
        answer, remedy = f"the name is not valid: {shorten(last_cause(message), _ANSWER_LIMIT)}", f"correct {field}"
    elif reason == "ErrImageNeverPull":
        answer = f"it is not on {node or 'the node'} and is never pulled"
        remedy = "load it there, or set imagePullPolicy: IfNotPresent in the site profile"
    else:
        answer, remedy = _answer(message)
    registry, last = _registry(image), shorten(last_cause(message), _ANSWER_LIMIT)
    parts = {"registry": registry, "field": field, "last": last}
    return Finding(Trouble.IMAGE_PULL, f"{name}: {answer.format(**parts)}", remedy.format(**parts))


def start_failure(end: Terminated) -> Rule | None:
    """Return what follows from a container that could not even be started; None if it was."""
    if end.reason not in ("StartError", "ContainerCannotRun"):
        return None
    text = end.record.message.lower()
    unusable = ("no such file", "executable file not found", "permission denied", "exec format error")
    return IMAGE_UNUSABLE if any(sign in text for sign in unusable) else CONTAINER_NOT_STARTED


def _answer(message: str) -> tuple[str, str]:
    for pattern, answer, remedy in _ANSWERS:
        if re.search(pattern, message, re.IGNORECASE):
            return answer, remedy
    return "it cannot be pulled: {last}", "check {field}; kubectl describe pod shows more"


def _registry(image: str) -> str:
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"
