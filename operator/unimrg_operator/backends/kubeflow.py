"""The backend for clusters with Kubeflow's Training Operator v1: PyTorchJobs train, plain Jobs do the rest."""

from __future__ import annotations

from unimrg_api.stages import StageName
from unimrg_operator.backends import batchjob, pytorchjob
from unimrg_operator.backends.base import Attempt, Manifest, Resource
from unimrg_operator.backends.pod import to_manifest
from unimrg_operator.backends.profile import SiteProfile


class KubeflowBackend:
    """Renders children for one site; see `base.Backend`."""

    def __init__(self, profile: SiteProfile) -> None:
        self._profile = profile

    def resource(self, stage: StageName) -> Resource:
        """Return what kind of object runs a stage."""
        return pytorchjob.RESOURCE if stage == "train" else batchjob.RESOURCE

    def render(self, attempt: Attempt) -> Manifest:
        """Return the child. Raises UserError for a job that this site cannot run."""
        build = pytorchjob.pytorch_job if attempt.stage == "train" else batchjob.batch_job
        return to_manifest(build(attempt, self._profile))
