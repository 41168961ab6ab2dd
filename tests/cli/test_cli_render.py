"""`unimrg render`: what it prints is what the operator creates, and it refuses what a cluster refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.command_line import Unimrg
from tests.support.good_jobs import GOOD_CLUSTER_JOB
from unimrg_api.load import dump_job, load_job
from unimrg_cli.yaml_text import to_yaml
from unimrg_operator.app.observe import observe_job
from unimrg_operator.backends.base import Attempt
from unimrg_operator.backends.children import first_attempts
from unimrg_operator.backends.profile import load_profile
from unimrg_operator.backends.registry import SiteBackends

yaml = pytest.importorskip("yaml", reason="the Kubernetes client brings PyYAML, which reads YAML 1.1 as kubectl does")

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "quickstart-s3.yaml"
PROFILE = REPOSITORY / "examples" / "site-profile.yaml"
GOLDEN = Path(__file__).parent / "golden" / "quickstart-s3-check.yaml"


def rendered(unimrg: Unimrg, *arguments: object) -> list[Any]:
    ended = unimrg("render", *arguments)
    assert (ended.code, ended.err) == (0, "")
    return list(yaml.safe_load_all(ended.out))


def test_the_first_child_of_the_example_is_the_reviewed_one(unimrg: Unimrg) -> None:
    ended = unimrg("render", EXAMPLE, "-n", "research", "--profile", PROFILE, "--stage", "check")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == GOLDEN.read_text()


def created_by_the_operator(namespace: str) -> list[dict[str, Any]]:
    """Return what the operator creates for the example once a cluster has it, without owners."""
    metadata = {"name": "quickstart-s3", "namespace": namespace, "uid": "u1", "generation": 1}
    item = {**dump_job(load_job(EXAMPLE)), "metadata": metadata}
    job = observe_job(item).parsed
    assert job is not None
    backend = SiteBackends(load_profile(PROFILE))
    children = []
    for first in first_attempts(job, namespace):
        child = backend.render(Attempt(job, namespace, "u1", first.stage, 1, 1, first.restart_counters))
        assert child["metadata"].pop("ownerReferences")[0]["uid"] == "u1"
        children.append(child)
    return children


def take_out_what_the_header_lists(child: dict[str, Any]) -> dict[str, Any]:
    replicas = child["spec"].get("pytorchReplicaSpecs", {}).get("Worker", child["spec"])
    (container,) = replicas["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert port.pop("containerPort") > 0 and port["name"] == "progress"
    (uid,) = [variable for variable in container["env"] if variable["name"] == "UNIMRG_UID"]
    del uid["value"]
    return child


def test_children_are_the_operators_but_for_what_the_header_lists(unimrg: Unimrg) -> None:
    found = rendered(unimrg, EXAMPLE, "-n", "research", "--profile", PROFILE)
    assert [child["metadata"]["name"].removeprefix("quickstart-s3-") for child in found] == [
        f"{stage}-1" for stage in ("check", "prepare", "train", "evaluate", "finish")
    ]
    expected = created_by_the_operator("research")
    assert found != expected
    assert [*map(take_out_what_the_header_lists, found)] == [*map(take_out_what_the_header_lists, expected)]


def test_the_namespace_is_the_options_the_files_or_default(unimrg: Unimrg, tmp_path: Path) -> None:
    assert {child["metadata"]["namespace"] for child in rendered(unimrg, EXAMPLE)} == {"default"}
    file = tmp_path / "job.yaml"
    file.write_text(EXAMPLE.read_text().replace("name: quickstart-s3", "name: quickstart-s3\n  namespace: lab"))
    assert {child["metadata"]["namespace"] for child in rendered(unimrg, file)} == {"lab"}
    assert "metadata.namespace is lab, and -n says other" in unimrg("render", file, "-n", "other").err


def test_a_stage_that_the_job_does_not_have(unimrg: Unimrg, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    text = EXAMPLE.read_text().replace("mode: OnSuccess", "mode: Never")
    file.write_text(text)
    ended = unimrg("render", file, "--stage", "evaluate")
    ended.refused(64, "has no stage evaluate", "its stages are check, prepare, train, finish")


def test_what_a_cluster_refuses_is_refused_with_its_line(unimrg: Unimrg) -> None:
    file = REPOSITORY / "examples" / "quickstart.yaml"
    ended = unimrg("render", file)
    assert (ended.code, ended.out) == (64, "")
    line = next(number for number, text in enumerate(file.read_text().splitlines(), 1) if "uri: file://.." in text)
    assert f"{file}:{line}:10: spec.checkpoint.uri: " in ended.err
    assert "(got 'file://../runs/quickstart')" in ended.err
    assert "PersistentVolumeClaim" in ended.err
    assert "has 5 problems" in ended.err


def test_a_job_without_an_image_needs_a_profile_with_one(unimrg: Unimrg, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(GOOD_CLUSTER_JOB)
    unimrg("render", tmp_path / "job.yaml").refused(64, "names an image")
    assert unimrg("render", tmp_path / "job.yaml", "--profile", PROFILE).code == 0


def test_a_profile_that_is_wrong_is_shown_with_its_line(unimrg: Unimrg, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("image: trainer:1\nsharedMemory: 64\n")
    unimrg("render", EXAMPLE, "--profile", profile).refused(64, f"{profile}:2:15: sharedMemory: ")
    assert unimrg("render", EXAMPLE, "--profile", tmp_path / "nowhere").code == 66


SPECIAL = "no|on|Yes|~|null|1e5|0x1f|1_000|1:30|2026-01-02|=|<<|#|'|\"|- a|a: b"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(SPECIAL.split("|"))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(texts, values, min_size=1, max_size=3), min_size=1, max_size=3))
def test_readers_of_the_old_yaml_read_what_was_written(documents: list[dict[str, Any]]) -> None:
    documents = [*documents, documents[0]]  # one value in two places is written out twice
    text = to_yaml(documents)
    assert list(yaml.safe_load_all(text)) == documents
    assert "&id" not in text
