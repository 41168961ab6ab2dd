"""Shows what a cluster would be given for a job: the first attempt of every stage, as YAML."""

from __future__ import annotations

from pathlib import Path

from unimrg_api.cluster import PROGRESS_PORT
from unimrg_api.errors import UserError
from unimrg_api.job import UniMRGJob
from unimrg_cli.yaml_text import to_yaml
from unimrg_operator.backends.children import first_attempts
from unimrg_operator.backends.profile import load_profile
from unimrg_operator.backends.registry import SiteBackends

HEADER = f"""\
# What the operator creates for the job {{job}}: the first attempt of each stage, one after the other.
# Only the cluster can fill in:
#   metadata.ownerReferences     the UniMRGJob object
#   UNIMRG_UID                   its uid
#   containerPort of {PROGRESS_PORT:<12}derived from its uid; shown is the one of no uid
# Later attempts have other numbers and ports, other restart counters, and may stay away from nodes.
"""


def render_job(job: UniMRGJob, profile: Path | None, namespace: str | None, stage: str | None) -> str:
    """Return the children of a job, or the one of a stage, as YAML documents: the same text every time.

    Raises UserError for a profile that is wrong, a job that the site cannot run, and a stage that the job has not.
    """
    backends = SiteBackends(load_profile(profile))
    namespace = namespace or "default"
    metadata = job.metadata.model_copy(update={"namespace": namespace})  # as the object on a cluster says it
    attempts = first_attempts(job.model_copy(update={"metadata": metadata}), namespace)
    chosen = [attempt for attempt in attempts if stage in (None, attempt.stage)]
    if not chosen:
        known = ", ".join(attempt.stage for attempt in attempts)
        raise UserError(f"the job {job.metadata.name} has no stage {stage}", remedy=f"its stages are {known}")
    return HEADER.format(job=job.metadata.name) + to_yaml([backends.render(attempt) for attempt in chosen])
