"""A backend of one's own in one file: a PodSet makes one Job for each node, and each Job makes a pod."""

from __future__ import annotations

from typing import Any

from unimrg_operator.backends import pod
from unimrg_operator.backends.base import Attempt, Manifest, ObservedState, Resource
from unimrg_operator.backends.children import child_name, labels_of
from unimrg_operator.backends.objects import dig, text_of, time_of
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.core.observation import ChildState

NODE_RANK = "metadata.annotations['toys.example/index']"
STATES: dict[str, ChildState] = {"Done": "Succeeded", "Broken": "Failed", "Paused": "Suspended"}


class ToyBackend:
    resource = Resource("toys.example", "v1", "podsets", "PodSet")
    intermediates = (Resource("batch", "v1", "jobs", "Job"),)

    def render(self, attempt: Attempt, profile: SiteProfile) -> Manifest:
        host = f"{child_name(attempt)}-0"
        template = pod.template(attempt, profile, node_rank=NODE_RANK, master_address=host)
        spec = {"size": attempt.job.spec.trainer.nodes, "labels": labels_of(attempt), "template": template}
        manifest: dict[str, Any] = {
            "apiVersion": "toys.example/v1",
            "kind": "PodSet",
            "metadata": pod.metadata(attempt),
        }
        return pod.to_manifest({**manifest, "spec": spec})

    def observe(self, item: Manifest) -> ObservedState:
        state = STATES.get(text_of(dig(item, "status"), "is"), "Active")
        return ObservedState(state, time_of(dig(item, "status", "resumed")))
