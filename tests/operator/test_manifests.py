"""The manifests that install the operator: they fit each other and ask for no more than is needed.

That they install, and what the accounts may then do, is tried at the real API server.
"""

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

READING = ("get", "list", "watch")


def read(name: str) -> list[dict[str, Any]]:
    """The objects of a file."""
    return list(yaml.safe_load_all((ROOT / "manifests" / name).read_text()))


def only(name: str, kind: str) -> dict[str, Any]:
    """The object of a kind in a file."""
    (found,) = (item for item in read(name) if item["kind"] == kind)
    return found


def rights(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Every (group, resource, verb) that rules allow."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_operator_may_change_its_children_and_a_jobs_status_only() -> None:
    rules = only("namespace/role.yaml", "Role")["rules"]
    backend = SiteBackends(SiteProfile())
    children = backend.wanted_resources()  # other kinds need rights that a site adds
    assert {right for right in rights(rules) if right[2] not in READING} == {
        *((child.group, child.plural, verb) for child in children for verb in ("create", "delete")),
        (cluster.GROUP, f"{cluster.PLURAL}/status", "patch"),
        ("", "pods", "delete"),
        ("events.k8s.io", "events", "create"),
    }
    groups, resources, verbs = (set(column) for column in zip(*rights(rules), strict=True))
    assert not {"secrets", "configmaps", "pods/exec", "pods/log", "serviceaccounts", "namespaces", "*"} & resources
    assert "*" not in groups | verbs


def test_the_operator_finds_its_profile_and_knows_its_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, deployment = only("profile.yaml", "ConfigMap"), only("operator.yaml", "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    (mount,), (name,) = container["volumeMounts"], config["data"]
    assert config["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    assert config["metadata"]["name"] == volume["configMap"]["name"]
    assert f"--profile={mount['mountPath']}/{name}" in container["args"]
    (tmp_path / name).write_text(config["data"][name])
    assert load_profile(tmp_path / name).image == "unimrg-trainer:0.1.0"
    with pytest.raises(SystemExit):
        main(["--help"])
    usage = capsys.readouterr().out
    assert all(argument.split("=")[0] in usage for argument in container["args"])


def test_users_get_rights_on_jobs_with_the_roles_that_they_have() -> None:
    def added_to(name: str) -> set[tuple[str, str, str]]:
        label = f"rbac.authorization.k8s.io/aggregate-to-{name}"
        roles = [role for role in read("user-roles.yaml") if role["metadata"]["labels"].get(label) == "true"]
        return {right for role in roles for right in rights(role["rules"])}

    assert {verb for _, _, verb in added_to("view")} == set(READING)
    assert added_to("admin") == added_to("edit") > added_to("view")
    changing = {(group, resource) for group, resource, verb in added_to("admin") if verb not in READING}
    assert changing == {(cluster.GROUP, cluster.PLURAL)}
