"""What the Helm chart can be told, as models: values.yaml and values.schema.json follow from them.

A name that is not here is refused by Helm itself, before anything is rendered.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from io import StringIO
from typing import Annotated, Any, Literal

from pydantic import Field
from ruamel.yaml import YAML

from tools.crd import without_nulls
from unimrg_api.fields import RULES, Spec, descriptions
from unimrg_operator.backends.profile import ObjectName, SiteProfile, Toleration

NamespaceName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Repository = Annotated[str, Field(pattern=r"^[a-z0-9][!-~]*$", max_length=384)]
Port = Annotated[int, Field(ge=1, le=65535)]


class GlobalValues(Spec):
    """Of every image."""

    registry: Annotated[str, Field(pattern=r"^[!-~]*[^/]?$", max_length=253)] = ""
    """Put in front of every image's repository, e.g. for a site without access to others: registry.example/mirror."""
    image_pull_secrets: Annotated[list[ObjectName], Field(max_length=8)] = Field(default=[])
    """Names of the Secrets with which images are pulled: in the release's namespace, and in those with jobs."""


class ImageValues(Spec):
    """An image: a digest wins over a tag."""

    repository: Repository
    """Its name without registry and tag."""
    tag: Annotated[str, Field(max_length=128)] = ""
    """Empty: the chart's version."""
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """sha256:…, where the image must not change under its name."""


class ImagesValues(Spec):
    """The images, of which the trainer's is the default of jobs that name none."""

    operator: ImageValues = ImageValues(repository="unimrg-operator")
    """The operator's (operator/Dockerfile)."""
    trainer: ImageValues = ImageValues(repository="unimrg-trainer")
    """The trainer's (trainer/Dockerfile). siteProfile.image wins over it."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull the operator's image. That of jobs is siteProfile.imagePullPolicy."""


class WatchValues(Spec):
    """What the operator sees beyond jobs, their children, pods and events; each brings its rights."""

    jobset: bool = False
    """JobSets, for jobs with backend: JobSet."""
    kueue: bool = False
    """Kueue's Workloads: why a job waits, and at which position."""
    nodes: bool = False
    """Nodes, of the whole cluster: whether the machine of a failed pod was ready."""


class CrdValues(Spec):
    """The CustomResourceDefinition. It is upgraded with the release, and stays, with all jobs, when that is gone."""

    install: bool = True
    """No for a second release in a cluster."""


class UserRoleValues(Spec):
    """Rights on jobs for those who have the cluster's roles view, edit or admin."""

    install: bool = True
    """No for a second release in a cluster."""


class MonitoringValues(Spec):
    """For a cluster with the Prometheus operator and Grafana."""

    service_monitor: bool = False
    """A ServiceMonitor for the operator's /metrics."""
    alerts: bool = False
    """A PrometheusRule with alerts."""
    dashboard: bool = False
    """A ConfigMap with a dashboard, labelled grafana_dashboard."""
    labels: dict[str, str] = Field(default={})
    """Labels by which your Prometheus selects ServiceMonitors and PrometheusRules."""


class NetworkPolicyValues(Spec):
    """What the operator may reach: API server, DNS, and the progress port of trainer pods."""

    enabled: bool = False
    """Whether there is such a policy. It has to name the port at which your API server listens."""
    api_server_ports: Annotated[list[Port], Field(min_length=1, max_length=8)] = Field(default=[443, 6443])
    """Ports of the API server, as they are behind the service `kubernetes`."""
    api_server_cidrs: Annotated[list[str], Field(max_length=16)] = Field(default=[], alias="apiServerCIDRs")
    """Its addresses. None: any address at those ports."""


class ResourceAmounts(Spec):
    """CPUs and memory."""

    cpu: str | None = None
    memory: str | None = None


class ResourceValues(Spec):
    """What the operator's pod asks for, and the most that it gets."""

    requests: ResourceAmounts = ResourceAmounts(cpu="100m", memory="128Mi")
    limits: ResourceAmounts = ResourceAmounts(memory="512Mi")


class ChartValues(Spec):
    """Values of the chart unimrg-operator."""

    global_: GlobalValues = Field(default=GlobalValues(), alias="global")
    """Of every image."""
    images: ImagesValues = ImagesValues()
    """The images, of which the trainer's is the default of jobs that name none."""
    watch_namespaces: Annotated[list[NamespaceName], Field(max_length=256)] = Field(default=[])
    """Namespaces with jobs; they must exist. The operator has rights in these only. None: the release's own."""
    watch: WatchValues = WatchValues()
    """What the operator sees beyond jobs, their children, pods and events; each brings its rights."""
    site_profile: SiteProfile = SiteProfile(
        tolerations=[Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")]
    )
    """What depends on the cluster and not on the experiment: nodes, amounts, variables (examples/site-profile.yaml)."""
    replicas: Annotated[int, Field(ge=1, le=5)] = 2
    """Operators, one of which leads."""
    resources: ResourceValues = ResourceValues()
    """What the operator's pod asks for, and the most that it gets."""
    node_selector: dict[str, str] = Field(default={})
    """Labels of the nodes for the operator's pods."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(default=[])
    """Taints of the nodes for the operator's pods."""
    priority_class_name: Annotated[str, Field(max_length=253)] = ""
    """PriorityClass of the operator's pods."""
    crds: CrdValues = CrdValues()
    """The CustomResourceDefinition. It is upgraded with the release, and stays, with all jobs, when that is gone."""
    user_roles: UserRoleValues = UserRoleValues()
    """Rights on jobs for those who have the cluster's roles view, edit or admin."""
    monitoring: MonitoringValues = MonitoringValues()
    """For a cluster with the Prometheus operator and Grafana."""
    network_policy: NetworkPolicyValues = NetworkPolicyValues()
    """What the operator may reach: API server, DNS, and the progress port of trainer pods."""


_HEADER = "Written by `python -m tools.generate` from tools/chart_values.py; do not edit."


def values_schema() -> str:
    """Return values.schema.json."""
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "$comment": _HEADER}
    return json.dumps({**schema, **_plain(ChartValues.model_json_schema())}, indent=1, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """Leave out titles, and rules that only an API server reads."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if key not in (RULES, "title")}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def values_yaml() -> str:
    """Return values.yaml: every default, with what it means above it."""
    return "\n".join([f"# {_HEADER}", *_lines(ChartValues(), "")]) + "\n"


def _lines(model: Spec, indent: str) -> Iterator[str]:
    texts = descriptions(type(model))
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if not indent:
            yield ""
        if name in texts:
            yield from textwrap.wrap(
                texts[name], 118 - len(indent), initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
            )
        key = f"{indent}{field.alias or name}:"
        if isinstance(value, SiteProfile | ResourceAmounts):
            plain = without_nulls(value.model_dump(by_alias=True, mode="json", exclude_none=True))
            yield key
            yield from textwrap.indent(_dump(plain), f"{indent}  ").splitlines()
        elif isinstance(value, Spec):
            yield key
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{key} {json.dumps(value)}"


def _dump(value: Any) -> str:
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    text = StringIO()
    yaml.dump(value, text)
    return text.getvalue()
