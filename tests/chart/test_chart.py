"""The chart as Helm renders it: what values do, what is refused, and that manifests and alerts follow from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.conftest import Object, Render, values_file
from tools.chart_values import ChartValues
from tools.manifests import CHART, ROOT, manifests
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.backends.profile import SiteProfile, load_profile

EVERYTHING = {
    "watchNamespaces": ["research", "vision"],
    "watch": {"jobset": True, "kueue": True, "nodes": True},
    "monitoring": {"serviceMonitor": True, "alerts": True, "dashboard": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {"enabled": True, "apiServerCIDRs": ["10.0.0.1/32"]},
    "global": {"registry": "registry.example/mirror", "imagePullSecrets": ["registry"]},
}


def only(items: list[Object], kind: str) -> Object:
    """The object of a kind."""
    (found,) = (item for item in items if item["kind"] == kind)
    return found


def profile(items: list[Object], folder: Path) -> SiteProfile:
    """The site profile that is rendered, as the operator reads it."""
    (config,) = (item for item in items if item["metadata"]["name"].endswith("-site-profile"))
    path = folder / "profile.yaml"
    path.write_text(config["data"]["profile.yaml"])
    return load_profile(path)


def test_helm_lint_finds_nothing(helm: str, tmp_path: Path) -> None:
    for flags in ([], [values_file(tmp_path, EVERYTHING)], [f"--values={CHART / 'values-h20.yaml'}"]):
        subprocess.run([helm, "lint", "--strict", str(CHART), *flags], check=True)


def test_no_manifest_has_drifted_from_the_chart(helm: str) -> None:
    for path, text in manifests(helm).items():
        assert (ROOT / path).read_text() == text, f"{path}: run `python -m tools.generate`"


def test_the_defaults_in_the_file_are_those_of_the_model() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert ChartValues.model_validate(values) == ChartValues()


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"replica": 3}, "replica"),
        ({"watch": {"node": True}}, "node"),
        ({"siteProfile": {"resources": {"gpuPods": {}}}}, "gpuPods"),
        ({"watchNamespaces": ["Research"]}, "/watchNamespaces/0"),
        ({"replicas": 0}, "/replicas"),
        ({"images": {"operator": {"digest": "latest"}}}, "/images/operator/digest"),
    ],
)
def test_a_misspelt_or_impossible_value_is_refused(render: Render, tmp_path: Path, values: Object, path: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render(values_file(tmp_path, values))
    assert path in refused.value.stderr


def test_one_registry_stands_before_every_image(render: Render, tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    images = {"operator": {"digest": digest}, "trainer": {"tag": "1.2"}}
    items = render(values_file(tmp_path, {**EVERYTHING, "images": images}))
    pod = only(items, "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"registry.example/mirror/unimrg-operator@{digest}"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    site = profile(items, tmp_path)
    assert site.image == "registry.example/mirror/unimrg-trainer:1.2"
    assert site.image_pull_secrets == ["registry"]


def test_rights_are_in_the_named_namespaces_only(render: Render, tmp_path: Path) -> None:
    minimal = render()
    assert {item["kind"] for item in minimal if item["kind"].startswith("ClusterRole")} == {"ClusterRole"}
    assert all(
        item["metadata"]["name"].startswith("unimrgjobs-") for item in minimal if item["kind"] == "ClusterRole"
    ), "no cluster-wide right of the operator"
    items = render(values_file(tmp_path, EVERYTHING))
    bound = [item["metadata"]["namespace"] for item in items if item["kind"] == "RoleBinding"]
    assert sorted(bound) == ["research", "unimrg-system", "vision"]
    (nodes,) = (item for item in items if item["metadata"]["name"] == "unimrg-operator-nodes" and "rules" in item)
    assert nodes["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}]


def test_the_pod_passes_the_strictest_pod_security(render: Render) -> None:
    pod = only(render(), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_every_metric_in_alerts_and_dashboard_is_exported() -> None:
    exported = set(re.findall(r"^# TYPE (\w+)", Metrics().text().decode(), re.MULTILINE))
    for name in ("alerts.yaml", "dashboard.json"):
        used = set(re.findall(r"\bunimrg_\w+", (CHART / "files" / name).read_text()))
        assert {re.sub("_bucket$", "", metric) for metric in used} <= exported, name


def test_alerts_fire_when_they_should_and_only_then(promtool: str, tmp_path: Path) -> None:
    cases = yaml.safe_load(Path(__file__).with_name("alerts_test.yaml").read_text())
    cases["rule_files"] = [str(CHART / "files" / "alerts.yaml")]
    tested = tmp_path / "alerts_test.yaml"
    tested.write_text(yaml.safe_dump(cases))
    done = subprocess.run([promtool, "test", "rules", str(tested)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    fired = {sample["labels"] for check in cases["tests"][-1]["promql_expr_test"] for sample in check["exp_samples"]}
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    names = {rule["alert"] for group in groups for rule in group["rules"]}
    assert {re.search('alertname="(\\w+)"', labels)[1] for labels in fired} == names, "every alert has a case"


def test_prometheus_takes_the_rules_that_are_rendered(render: Render, promtool: str, tmp_path: Path) -> None:
    items = render(values_file(tmp_path, EVERYTHING))
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(only(items, "PrometheusRule")["spec"]))
    subprocess.run([promtool, "check", "rules", "--lint-fatal", str(rules)], check=True)
    (dashboard,) = (item for item in items if item["metadata"]["name"].endswith("-dashboard"))
    expressions = [
        target["expr"]
        for panel in json.loads(dashboard["data"]["unimrg.json"])["panels"]
        for target in panel["targets"]
    ]
    queries: list[dict[str, Any]] = [
        {"record": f"panel:{number}:x", "expr": text} for number, text in enumerate(expressions)
    ]
    rules.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": queries}]}))
    subprocess.run([promtool, "check", "rules", str(rules)], check=True)


@pytest.mark.parametrize("path", ["operator/Dockerfile", "trainer/Dockerfile", "tests/e2e/s3.Dockerfile"])
def test_the_dockerfiles_are_linted(path: str) -> None:
    subprocess.run([Path(sys.executable).with_name("hadolint"), ROOT / path], check=True)
