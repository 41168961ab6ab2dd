"""Shows what a cluster would be given for a job: the first attempt of every stage, as YAML."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from unimrg_api.cluster import PROGRESS_PORT
from unimrg_api.errors import UserError
from unimrg_api.job import UniMRGJob
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
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9/._-]*")
_NOT_TEXTS = frozenset({"y", "yes", "n", "no", "true", "false", "on", "off", "null"})
"""Words that readers of YAML 1.1, as kubectl is, take for something else than texts."""


class _Representer(SafeRepresenter):
    """Writes texts so that every version of YAML reads the same, and no value as a reference to another."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> ScalarNode:
        plain = _PLAIN.fullmatch(data) and data.lower() not in _NOT_TEXTS
        quotes = "'" if '"' in data and data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if plain else quotes)


_Representer.add_representer(str, _Representer.text)


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


def to_yaml(documents: list[dict[str, Any]]) -> str:
    """Return plain values as YAML documents, the same text every time."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 1 << 20
    text = StringIO()
    for document in documents:
        text.write("---\n")
        yaml.dump(document, text)
    return text.getvalue()
