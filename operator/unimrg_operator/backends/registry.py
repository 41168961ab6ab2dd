"""Which backend makes the children of a stage: the site's for every node's pods, batch Jobs for single pods."""

from __future__ import annotations

from unimrg_api import plugins
from unimrg_api.stages import STAGES, StageName
from unimrg_operator.backends.base import Attempt, Backend, Manifest, Resource
from unimrg_operator.backends.profile import SiteProfile

GROUP = "unimrg.backends"
"""Group of entry points through which an installed package adds a backend."""
BACKENDS = {"pytorchjob": "unimrg_operator.backends.pytorchjob:PyTorchJobBackend"}
SINGLE_POD = "unimrg_operator.backends.batchjob:BatchJobBackend"


class SiteBackends:
    """The backends of one site, by stage."""

    def __init__(self, profile: SiteProfile) -> None:
        """Load them by name. Raises UserError if the profile names a backend that is not installed."""
        self._profile = profile
        distributed: Backend = plugins.load(GROUP, BACKENDS, profile.backend, field="backend (site profile)")()
        single: Backend = plugins.load(GROUP, {"job": SINGLE_POD}, "job", field="backend")()
        self._by_stage = {name: distributed if row.every_node else single for name, row in STAGES.items()}

    def of(self, stage: StageName) -> Backend:
        """Return the backend of a stage."""
        return self._by_stage[stage]

    def all(self) -> list[Backend]:
        """Return every backend once."""
        return list(dict.fromkeys(self._by_stage.values()))

    def resource(self, stage: StageName) -> Resource:
        """Return what kind of object runs a stage."""
        return self.of(stage).resource

    def render(self, attempt: Attempt) -> Manifest:
        """Return the child of an attempt. Raises UserError for a job that this site cannot run."""
        return self.of(attempt.stage).render(attempt, self._profile)
