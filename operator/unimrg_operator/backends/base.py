"""What a backend is: one kind of child, both ways, from an attempt to its object and from the object to its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import StageName
from unimrg_api.status import RestartCounters
from unimrg_operator.backends.objects import became_false, true_conditions
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.core.observation import ChildState

Manifest = dict[str, Any]
"""A Kubernetes object as plain JSON values."""


@dataclass(frozen=True)
class Resource:
    """A kind of object, as the API addresses it."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """Group and version, as an object names them."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def kind_key(self) -> str:
        """The kind with group and version, e.g. `kubeflow.org/v1/PyTorchJob`."""
        return f"{self.api_version}/{self.kind}"


@dataclass(frozen=True)
class Attempt:
    """One attempt of one stage of one job: everything that its manifest depends on but the site profile."""

    job: UniMRGJob
    namespace: str
    uid: str
    """Of the UniMRGJob object; `unimrg render` has none and says so."""
    stage: StageName
    number: int
    train_attempt: int
    restart_counters: RestartCounters


@dataclass(frozen=True)
class ObservedState:
    """What a child's object says of itself."""

    state: ChildState
    resumed_at: float | None = None
    """Unix time of its last resumption after a suspension; None: never, or it is suspended."""


class Backend(Protocol):
    """One kind of child. Its class takes no arguments; an instance keeps nothing.

    Whatever it makes of an attempt, the pods are those of `pod.template`: by their labels and their environment they
    are recognised. They lead to the child through their controllers, of the kinds `intermediates`.
    """

    resource: Resource
    """Kind of the child."""
    intermediates: tuple[Resource, ...]
    """Kinds of objects between child and pods, outermost first; they bear the labels of `children.labels_of`."""

    def render(self, attempt: Attempt, profile: SiteProfile) -> Manifest:
        """Return the child: the same attempt gives the same manifest, byte for byte.

        Raises UserError for a job that this backend or site cannot run.
        """
        ...

    def observe(self, item: Manifest) -> ObservedState:
        """Return the state of a child, whatever anybody may have written into it.

        Fields named `template`, `volumes` or `env` are not kept in memory.
        """
        ...


def state_of(item: Manifest, *, succeeded: str, suspend: Any) -> ObservedState:
    """Return what an object's conditions say, as those of Jobs and of Training Operator's kinds do.

    `succeeded` is the condition of one that ended well, `suspend` what its spec asks for.
    """
    true, resumed_at = true_conditions(item), became_false(item, "Suspended")
    if "Failed" in true:
        return ObservedState("Failed", resumed_at)
    if succeeded in true:
        return ObservedState("Succeeded", resumed_at)
    if "Suspended" in true or suspend is True:
        return ObservedState("Suspended")
    return ObservedState("Active", resumed_at)
