"""Which backend makes the children of a stage: the job's or the site's for every node's pods, batch Jobs for single
pods."""

from __future__ import annotations

from typing import Any

from unimrg_api import plugins
from unimrg_api.job import UniMRGJob
from unimrg_api.stages import STAGES, StageName
from unimrg_operator.backends.base import Attempt, Backend, Manifest, Resource
from unimrg_operator.backends.objects import text_of
from unimrg_operator.backends.profile import SiteProfile

GROUP = "unimrg.backends"
"""Group of entry points through which an installed package adds a backend."""
BACKENDS = {
    "pytorchjob": "unimrg_operator.backends.pytorchjob:PyTorchJobBackend",
    "jobset": "unimrg_operator.backends.jobset:JobSetBackend",
}
SINGLE_POD = "unimrg_operator.backends.batchjob:BatchJobBackend"


class SiteBackends:
    """The backends of one site, by stage and job."""

    def __init__(self, profile: SiteProfile) -> None:
        """Load them by name. Raises UserError if the profile names a backend that is not installed."""
        self._profile = profile
        self._distributed: dict[str, Backend] = {
            name: plugins.load(GROUP, BACKENDS, name, field="backend (site profile)")()
            for name in dict.fromkeys((profile.backend, *BACKENDS))
        }
        self._single: Backend = plugins.load(GROUP, {"job": SINGLE_POD}, "job", field="backend")()

    def of(self, stage: StageName, job: UniMRGJob | None = None) -> Backend:
        """Return the backend of a job's stage; without a job that of jobs which name none."""
        named = job.spec.backend if job is not None else None
        return self._for(named) if STAGES[stage].every_node else self._single

    def observing(self, item: Manifest) -> Backend | None:
        """Return the backend that makes objects of an object's kind; None: no backend does."""
        return next((backend for backend in self._all() if backend.resource.kind_key == kind_key(item)), None)

    def resource(self, stage: StageName, job: UniMRGJob | None = None) -> Resource:
        """Return what kind of object runs a stage."""
        return self.of(stage, job).resource

    def resources(self) -> list[Resource]:
        """Return every kind of child, and of object between child and pods, once."""
        return list(dict.fromkeys(kind for backend in self._all() for kind in _kinds(backend)))

    def wanted_resources(self, named: Any = None) -> list[Resource]:
        """Return those kinds that a job needs whose `spec.backend`, which anybody may have written, is `named`."""
        return list(dict.fromkeys(kind for item in (self._for(named), self._single) for kind in _kinds(item)))

    def render(self, attempt: Attempt) -> Manifest:
        """Return the child of an attempt. Raises UserError for a job that this site cannot run."""
        return self.of(attempt.stage, attempt.job).render(attempt, self._profile)

    def _for(self, named: Any) -> Backend:
        own = self._distributed.get(named.lower()) if isinstance(named, str) else None
        return own or self._distributed[self._profile.backend]

    def _all(self) -> list[Backend]:
        return [*self._distributed.values(), self._single]


def kind_key(item: Manifest) -> str:
    """Return the kind of an object as `Resource.kind_key` names it."""
    return f"{text_of(item, 'apiVersion')}/{text_of(item, 'kind')}"


def _kinds(backend: Backend) -> tuple[Resource, ...]:
    return (backend.resource, *backend.intermediates)
