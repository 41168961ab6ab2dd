"""The manifests that install the operator: they fit each other and ask for no more than is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.rendered_children import ROOT
from unimrg_api import cluster
from unimrg_operator.app.main import main
from unimrg_operator.backends.profile import SiteProfile, load_profile
from unimrg_operator.backends.registry import SiteBackends

MANIFESTS = ROOT / "manifests"


def read(name: str) -> dict[str, dict[str, Any]]:
    """The objects of a file by their kind."""
    return {item["kind"]: item for item in yaml.safe_load_all((MANIFESTS / name).read_text())}


def rights(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Every (group, resource, verb) that rules allow."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_operator_may_make_and_delete_what_it_renders_and_change_nothing_but_a_jobs_status() -> None:
    role = read("role.yaml")["Role"]
    backend = SiteBackends(SiteProfile())
    children = {backend.resource("train"), backend.resource("check")}
    changing = {right for right in rights(role["rules"]) if right[2] not in ("get", "list", "watch")}
    assert changing == {
        *((child.group, child.plural, verb) for child in children for verb in ("create", "delete")),
        (cluster.GROUP, f"{cluster.PLURAL}/status", "patch"),
        ("", "pods", "delete"),
        ("events.k8s.io", "events", "create"),
    }


def test_the_operator_reads_nothing_that_holds_secrets_and_nothing_of_all_kinds() -> None:
    role = read("role.yaml")["Role"]
    groups, resources, verbs = (set(column) for column in zip(*rights(role["rules"]), strict=True))
    assert not {"secrets", "configmaps", "pods/exec", "pods/log", "serviceaccounts", "namespaces", "*"} & resources
    assert "*" not in groups | verbs
    assert all("resourceNames" not in rule and "nonResourceURLs" not in rule for rule in role["rules"])


def test_the_role_is_bound_to_the_account_that_the_operator_runs_under() -> None:
    files, binding = read("operator.yaml"), read("role.yaml")["RoleBinding"]
    account = files["ServiceAccount"]["metadata"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", **account}]
    assert files["Deployment"]["spec"]["template"]["spec"]["serviceAccountName"] == account["name"]
    assert binding["roleRef"]["name"] == read("role.yaml")["Role"]["metadata"]["name"]


def test_the_role_names_no_namespace_for_it_is_applied_to_each_with_jobs() -> None:
    assert all("namespace" not in item["metadata"] for item in read("role.yaml").values())


def test_the_profile_is_mounted_where_the_operator_looks_for_it_and_can_be_read(tmp_path: Path) -> None:
    config = read("profile.yaml")["ConfigMap"]
    deployment = read("operator.yaml")["Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    (mount,) = container["volumeMounts"]
    (name,) = config["data"]
    assert (config["metadata"]["namespace"], config["metadata"]["name"]) == (
        deployment["metadata"]["namespace"],
        volume["configMap"]["name"],
    )
    assert f"--profile={mount['mountPath']}/{name}" in container["args"]
    (tmp_path / name).write_text(config["data"][name])
    assert load_profile(tmp_path / name).image == "unimrg-trainer:0.1.0"


def test_the_operators_command_line_takes_the_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    (container,) = read("operator.yaml")["Deployment"]["spec"]["template"]["spec"]["containers"]
    with pytest.raises(SystemExit):
        main(["--help"])
    usage = capsys.readouterr().out
    assert all(argument.split("=")[0] in usage for argument in container["args"])


def test_users_get_jobs_with_the_roles_that_they_have() -> None:
    roles = list(yaml.safe_load_all((MANIFESTS / "user-roles.yaml").read_text()))
    prefix = "rbac.authorization.k8s.io/aggregate-to-"

    def added_to(name: str) -> set[tuple[str, str, str]]:
        return {
            right
            for role in roles
            if role["metadata"]["labels"].get(prefix + name) == "true"
            for right in rights(role["rules"])
        }

    assert {verb for _, _, verb in added_to("view")} == {"get", "list", "watch"}
    assert (cluster.GROUP, cluster.PLURAL, "create") in added_to("edit")
    assert added_to("admin") == added_to("edit") > added_to("view")
    assert not any(
        resource != cluster.PLURAL for _, resource, verb in added_to("admin") if verb not in ("get", "list", "watch")
    )
