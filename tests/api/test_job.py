"""The job's models: what they decide, and that they can become the schema of a custom resource."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.bad_jobs import GOOD_JOB
from unimrg_api.digests import canonical_json
from unimrg_api.job import UniMRGJob, path_of, resolve_uri
from unimrg_api.load import dump_job, parse_job
from unimrg_api.locality import cluster_notes
from unimrg_api.yaml_source import read_yaml

SMALLEST: dict[str, Any] = {
    "apiVersion": "training.unimrg.dev/v1alpha1",
    "kind": "UniMRGJob",
    "metadata": {"name": "small"},
    "spec": {
        "model": {"name": "Harmon", "variant": "0.5B"},
        "data": {"shards": ["s3://bucket/shards"]},
        "checkpoint": {"uri": "s3://bucket/run"},
    },
}


def changed(*changes: tuple[str, Any]) -> UniMRGJob:
    value = read_yaml(GOOD_JOB.encode()).value
    for path, new in changes:
        *parents, last = path.split(".")
        place = value["spec"]
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = new
    return parse_job(value)


def test_what_is_left_out_has_the_published_recipe() -> None:
    spec = parse_job(SMALLEST).spec
    assert spec.resolved_objectives() == {"Understanding": 1, "Pixel": 1, "Depth": 1, "Segmentation": 1}
    assert float(spec.training.optimizer.learning_rate) == 1e-5
    assert spec.training.resolved_stop_step() == 2500
    assert (spec.trainer.nodes, spec.trainer.gpus_per_node) == (1, 8)
    assert spec.stages.evaluate.benchmarks == ["Spatial"]


@pytest.mark.parametrize(
    ("method", "names"),
    [("SFT", ["Understanding"]), ("RecA", ["Understanding", "Pixel"])],
)
def test_a_method_without_objectives_has_its_recipe(method: str, names: list[str]) -> None:
    job = parse_job({**SMALLEST, "spec": {**SMALLEST["spec"], "method": method}})
    assert list(job.spec.resolved_objectives()) == names


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("SFT", {"Understanding": "2"}),
        ("SFT", {"Understanding": "1", "Depth": "0"}),
        ("RecA", {"Pixel": "0.5"}),
        ("RecA", {"Understanding": "1", "Pixel": "0.5"}),
    ],
)
def test_a_method_takes_its_own_objectives_with_any_weights(method: str, weights: dict[str, str]) -> None:
    objectives = [{"name": name, "weight": weight} for name, weight in weights.items()]
    job = parse_job({**SMALLEST, "spec": {**SMALLEST["spec"], "method": method, "objectives": objectives}})
    assert job.spec.resolved_objectives() == {name: float(weight) for name, weight in weights.items()}


@pytest.mark.parametrize("rate", ["999.5", "0.02", "1e-5", "2.5E-3", "1e0", "1e+00"])
def test_rates_are_read_as_they_are_written(rate: str) -> None:
    training = {"optimizer": {"learningRate": rate, "weightDecay": rate}}
    job = parse_job({**SMALLEST, "spec": {**SMALLEST["spec"], "training": training}})
    assert float(job.spec.training.optimizer.learning_rate) == float(rate)


def test_a_job_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse_job(SMALLEST).spec.training.seed = 3


def test_the_dump_is_canonical_json_and_complete() -> None:
    job = parse_job(SMALLEST)
    text = canonical_json(dump_job(job))
    assert parse_job(json.loads(text)) == job
    assert '"stallTimeoutSeconds":900' in text


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("s3://bucket/a/../b", "s3://bucket/a/../b"),
        ("file:///abs/x", "file:///abs/x"),
        ("file://rel", "file:///home/me/jobs/rel"),
        ("file://../data/", "file:///home/me/data"),
        ("file://a b", "file:///home/me/jobs/a%20b"),
        ("file://a%20b", "file:///home/me/jobs/a%20b"),
        ("file:///../x", "file:///x"),
    ],
)
def test_file_uris_are_relative_to_the_folder_of_the_job(uri: str, resolved: str) -> None:
    assert resolve_uri(uri, Path("/home/me/jobs")) == resolved


def test_the_path_of_a_uri_is_the_one_that_it_was_made_from() -> None:
    assert path_of(resolve_uri("file://a b/ü#?", Path("/x"))) == Path("/x/a b/ü#?")


def test_the_digest_of_a_training_is_the_one_that_was_written_down() -> None:
    """A change here makes every existing run refuse to go on: it needs a new version of the format."""
    assert changed().training_digest("data") == "511daeb8688a8801c0e94a2ec03094273af0f9b11d3e24a7217193ff9adfa86a"


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("model.variant", "0.5B"),
        ("model.dropout", "0"),
        ("model.init", "file://weights"),
        ("training.batch.rowsPerObjective", 32),
        ("training.batch.cohortRows", 16),
        ("training.optimizer.learningRate", "1e-4"),
        ("training.optimizer.beta2", "0.99"),
        ("training.schedule.warmupSteps", 6),
        ("training.schedule.horizonSteps", 60),
        ("training.precision", "BF16"),
        ("training.seed", 43),
        ("objectives", [{"name": "Understanding", "weight": "1"}, {"name": "Pixel", "weight": "0.5"}]),
    ],
)
def test_what_is_trained_is_in_the_digest(path: str, new: object) -> None:
    assert changed((path, new)).training_digest("d") != changed().training_digest("d")


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("training.batch.microBatchRows", 16),
        ("training.stopStep", 10),
        ("trainer.nodes", 4),
        ("data.shards", ["s3://elsewhere/data"]),
        ("checkpoint.uri", "s3://elsewhere/run"),
        ("checkpoint.everySteps", 1),
        ("tracking.mlflow.experiment", "other"),
        ("stages.evaluate.questions", 1),
        ("image", "registry/image:1"),
        ("training.optimizer.learningRate", "0.001"),  # the same value in other words
        ("objectives", [{"name": "Depth", "weight": "0.50"}, {"name": "Understanding", "weight": "1.0"}]),
    ],
)
def test_where_and_how_it_runs_is_not_in_the_digest(path: str, new: object) -> None:
    assert changed((path, new)).training_digest("d") == changed().training_digest("d")


def test_a_method_and_its_objectives_written_out_are_the_same_training() -> None:
    spec = {**SMALLEST["spec"], "method": "RecA"}
    written = {"objectives": [{"name": "Pixel", "weight": "1"}, {"name": "Understanding", "weight": "1"}]}
    short, long = parse_job({**SMALLEST, "spec": spec}), parse_job({**SMALLEST, "spec": {**spec, **written}})
    assert short.training_digest("d") == long.training_digest("d")
    assert short.training_digest("d") != parse_job(SMALLEST).training_digest("d")


def test_the_data_is_in_the_digest() -> None:
    assert changed().training_digest("a") != changed().training_digest("b")


def test_notes_say_why_a_job_runs_on_one_machine_only() -> None:
    assert cluster_notes(changed(("trainer.processesPerNode", 1), ("data.shards", ["s3://bucket/x"]))) == [
        "file:// is on this machine only: spec.checkpoint.uri; a cluster needs s3:// there"
    ]
    (uneven,) = cluster_notes(parse_job(SMALLEST))
    assert "8 processes, and 1 cohorts" in uneven
    assert "rowsPerObjective: 128" in uneven


def test_the_models_can_be_lowered_to_a_structural_schema() -> None:
    """Kubernetes has no exclusive bounds, tuples, sets or unions but "or absent", and wants bounds everywhere."""
    schema = UniMRGJob.model_json_schema(by_alias=True)
    problems = []

    def visit(node: Any, path: str) -> None:
        if isinstance(node, list):
            for index, item in enumerate(node):
                visit(item, f"{path}[{index}]")
            return
        if not isinstance(node, dict):
            return
        for word in ("exclusiveMinimum", "exclusiveMaximum", "prefixItems", "uniqueItems", "oneOf", "allOf"):
            if word in node:
                problems.append(f"{path}: {word}")
        options = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
        if len(options) > 1:
            problems.append(f"{path}: a union of {options}")
        kind = node.get("type")
        if kind == "string" and not {"maxLength", "enum", "const"} & set(node):
            problems.append(f"{path}: a string without maxLength")
        if kind == "array" and "maxItems" not in node:
            problems.append(f"{path}: a list without maxItems")
        if kind == "object" and "properties" not in node and "maxProperties" not in node:
            problems.append(f"{path}: a mapping without maxProperties")
        if kind == "integer" and not {"minimum", "maximum"} <= set(node):
            problems.append(f"{path}: an integer without bounds")
        if kind == "number":
            problems.append(f"{path}: a floating-point number")
        for key, item in node.items():
            visit(item, f"{path}.{key}")

    visit(schema, "")
    assert problems == []


def test_every_pattern_is_one_that_go_and_python_read_alike() -> None:
    text = json.dumps(UniMRGJob.model_json_schema(by_alias=True))
    patterns = {json.loads(f'"{found}"') for found in re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', text)}
    assert len(patterns) >= 8
    for pattern in patterns:
        assert not re.search(r"\(\?[=!<]|\\[1-9]|\\Z", pattern), f"{pattern} needs more than RE2"
        assert pattern.startswith("^")
        assert pattern.endswith("$")


def test_every_field_is_described_for_kubectl_explain() -> None:
    from unimrg_api.reference import reference

    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    for row in rows[:-3]:
        description = row.rsplit("|", 2)[1].strip()
        assert description.endswith("."), row
