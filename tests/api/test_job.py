"""The job's models: what they decide, and that they can become the schema of a custom resource."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.good_jobs import GOOD_JOB, SMALLEST
from unimrg_api.fields import path_of, resolve_uri
from unimrg_api.job import UniMRGJob
from unimrg_api.load import parse_job
from unimrg_api.locality import cluster_notes, cluster_problems
from unimrg_api.spec_benchmarks import requests_of
from unimrg_api.spec_platform import TrainerSpec
from unimrg_api.yaml_source import read_yaml

NEVER = (("stages.train", {"mode": "Never"}),)


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
    assert [entry.selected() for entry in spec.stages.evaluate.benchmarks] == [("spatial", {"questions": 256})]


def test_a_suite_adds_benchmarks_and_an_entry_replaces_its_own() -> None:
    evaluate = {"suite": "Quick", "files": "file://b", "benchmarks": [{"spatial": {}}, {"vsr": {"limit": 9}}]}
    chosen = changed(("stages.evaluate", evaluate)).spec.stages.evaluate.all_benchmarks()
    assert [(place.split(".")[-1], entry.key, entry.selected()[1].get("limit")) for place, entry in chosen] == [
        ("benchmarks[0]", "spatial", None),
        ("benchmarks[1]", "vsr", 9),
        ("suite", "mmvp", None),
        ("suite", "hallusionBench", 300),
    ]


def test_what_a_benchmark_asks_for_at_most_is_known_from_the_job() -> None:
    entries: list[dict[str, Any]] = [
        {"spatial": {"questions": 8}},
        {"generatedMaps": {"images": 4}},
        {"mmbench": {"limit": 400}},
        {"genEval": {"imagesPerPrompt": 12}},
        {"tsv": {"file": "file://a.tsv", "kind": "YesNo"}},
        {"custom": {"name": "mmvp-of-ours"}},
    ]
    evaluate = {"files": "file://b", "benchmarks": entries}
    chosen = changed(("stages.evaluate", evaluate)).spec.stages.evaluate.all_benchmarks()
    assert [requests_of(entry, maps=3) for _, entry in chosen] == [8, 12, 400, 6636, None, None]


def test_only_a_job_that_does_not_train_may_have_no_data() -> None:
    own = [{"tsv": {"file": "file://own.tsv", "kind": "YesNo"}}]
    never = changed(("stages.train", {"mode": "Never"}), ("data", {}), ("stages.evaluate.benchmarks", own)).spec
    assert not never.trains and never.data.shards == []


def test_cohorts_need_not_divide_among_processes_that_do_not_train() -> None:
    processes = ("trainer.processesPerNode", 3)
    fields = [[problem.path for problem in cluster_problems(changed(*more, processes))] for more in ((), NEVER)]
    assert [path for path in fields[0] if path not in fields[1]] == ["spec.training.batch.rowsPerObjective"]


@pytest.mark.parametrize(
    ("family", "objectives"), [("harmon", {"Understanding": 1, "Pixel": 1}), ("openuni", {"Pixel": 1})]
)
def test_reca_leaves_understanding_out_where_nothing_is_shared(family: str, objectives: dict[str, float]) -> None:
    model = {family: {"variant": "Tiny"}}
    job = parse_job({**SMALLEST, "spec": {**SMALLEST["spec"], "method": "RecA", "model": model}})
    assert job.spec.resolved_objectives() == objectives


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
    assert path_of(resolve_uri("file://a b/ü#?", Path("/x"))) == Path("/x/a b/ü#?")


def test_the_digest_of_a_training_is_the_one_that_was_written_down() -> None:
    """A change here makes every existing run refuse to go on: it needs a new version of the format."""
    assert changed().training_digest("data") == "a966ac39cb267b4cad87472773a7905be463aa9d8d307ad3091566117c17f612"


TRAINED = [
    ("model.harmon.variant", "0.5B"),
    ("model.harmon.dropout", "0"),
    ("model.harmon.maskRate", {"minimum": "0.95"}),
    ("model.harmon.maskRate", {"deviation": "0.5"}),
    ("model.init", "file://weights"),
    ("training.batch.rowsPerObjective", 32),
    ("training.batch.cohortRows", 16),
    ("training.batch.imageSharing", "Generation"),
    ("training.optimizer.learningRate", "1e-4"),
    ("training.optimizer.beta2", "0.99"),
    ("training.schedule.warmupSteps", 6),
    ("training.schedule.totalSteps", 60),
    ("training.schedule.kind", "Constant"),
    ("training.parts", [{"name": "LanguageModel", "learningRateScale": "0"}]),
    ("training.guard.spikeThreshold", "7"),
    ("training.precision", "BF16"),
    ("training.seed", 43),
    ("training.prompts", "Canonical"),
    ("objectives", [{"name": "Understanding", "weight": "1"}, {"name": "Pixel", "weight": "0.5"}]),
    ("training.earlyStop.benchmark", {"name": "spatial", "metric": "acc"}),  # scores of two kinds do not compare
    ("stages.train.mode", "Never"),
]
NOT_TRAINED = [
    ("training.batch.microBatchRows", 16),
    ("training.stopStep", 10),
    ("training.guard.skipBudget", 0),
    ("training.earlyStop.patience", 9),
    ("trainer.diagnostics.gradientNormsEvery", 1),
    ("training.composition", "Packed"),
    ("training.recompute", "Blocks"),
    ("trainer.nodes", 4),
    ("data.shards", ["s3://elsewhere/data"]),
    ("checkpoint.uri", "s3://elsewhere/run"),
    ("checkpoint.everySteps", 1),
    ("tracking.mlflow.experiment", "other"),
    ("stages.evaluate.heldOutRows", 1),
    ("model.harmon.sampling", {"steps": 3}),
    ("model.harmon.dropout", "0.10"),
    ("model.harmon.maskRate", {"mean": "1.00", "deviation": "25e-2"}),
    ("image", "registry/image:1"),
    ("training.optimizer.learningRate", "0.001"),  # the same value in other words
    ("objectives", [{"name": "Depth", "weight": "0.50"}, {"name": "Understanding", "weight": "1.0"}]),
]


@pytest.mark.parametrize(("path", "new"), TRAINED + NOT_TRAINED)
def test_the_digest_covers_what_is_trained_and_not_where(path: str, new: object) -> None:
    same = (path, new) in NOT_TRAINED
    assert (changed((path, new)).training_digest("d") == changed().training_digest("d")) is same
    assert changed().training_digest("a") != changed().training_digest("b")


def test_published_sizes_recompute_all_blocks_unless_they_are_asked_not_to() -> None:
    assert changed().spec.resolved_recompute() == "Nothing"
    published = ("model.harmon.variant", "0.5B")
    assert changed(published, ("training.recompute", "FeedForward")).spec.resolved_recompute() == "FeedForward"
    smallest = parse_job(SMALLEST)
    assert smallest.spec.training.recompute is None
    assert smallest.spec.resolved_recompute() == "Blocks"


@pytest.mark.parametrize(
    ("variant", "trainer", "training", "strategy"),
    [
        ("0.5B", {}, {}, "ZeRO1"),
        ("0.5B", {"nodes": 2}, {}, "FSDP2"),
        ("0.5B", {"nodes": 2, "strategy": "ZeRO2"}, {}, "ZeRO2"),
        ("0.5B", {"gpusPerNode": 1}, {}, "DDP"),
        ("0.5B", {"gpusPerNode": 0, "processesPerNode": 4}, {}, "DDP"),
        ("0.5B", {}, {"precision": "FP64"}, "DDP"),
        ("Tiny", {}, {}, "DDP"),
    ],
)
def test_a_strategy_is_chosen_by_the_size_of_model_and_cluster(
    variant: str, trainer: dict[str, Any], training: dict[str, Any], strategy: str
) -> None:
    spec = {"model": {"harmon": {"variant": variant}}, "trainer": trainer, "training": training}
    job = UniMRGJob.model_validate({**SMALLEST, "spec": {**SMALLEST["spec"], **spec}})
    assert job.spec.resolved_strategy() == strategy
    assert job.training_digest("d") == job.model_copy(
        update={"spec": job.spec.model_copy(update={"trainer": TrainerSpec()})}
    ).training_digest("d")


def test_a_method_and_its_objectives_written_out_are_the_same_training() -> None:
    spec = {**SMALLEST["spec"], "method": "RecA"}
    written = {"objectives": [{"name": "Pixel", "weight": "1"}, {"name": "Understanding", "weight": "1"}]}
    short, long = parse_job({**SMALLEST, "spec": spec}), parse_job({**SMALLEST, "spec": {**spec, **written}})
    assert short.training_digest("d") == long.training_digest("d")
    assert short.training_digest("d") != parse_job(SMALLEST).training_digest("d")


@pytest.mark.parametrize(
    ("model", "chosen"),
    [
        ({"custom": {"name": "toy", "settings": {"a": 2.0, "sampling": 1}}}, ("toy", {"a": 2, "sampling": 1})),
        ({"custom": {"name": "toy"}}, ("toy", {})),
        ({"harmon": {"variant": "Tiny", "sampling": {"steps": 2}}}, None),
    ],
)
def test_a_family_is_chosen_with_its_settings(model: dict[str, Any], chosen: tuple[str, Any] | None) -> None:
    found = parse_job({**SMALLEST, "spec": {**SMALLEST["spec"], "model": model}}).spec.model
    sampling = {"steps": 2, "textSteps": 64, "diffusionSteps": 100, "guidance": "3.0", "guidanceSchedule": "Constant"}
    harmon = {"variant": "Tiny", "dropout": "0.1", "sampling": sampling}
    harmon["maskRate"] = {"mean": "1.0", "deviation": "0.25", "minimum": "0.7"}
    assert found.family() == (chosen or ("harmon", harmon))
    assert "sampling" not in found.training_settings()["settings"]


def test_notes_say_why_a_job_runs_on_one_machine_only() -> None:
    files, tracking = cluster_notes(changed())
    assert files.startswith("a cluster would refuse spec.data.shards, spec.checkpoint.uri: a file:// URI works on")
    assert tracking.startswith("a cluster would refuse spec.tracking.mlflow.uri: ")
    *_, uneven = cluster_notes(parse_job(SMALLEST))
    assert "there are 1 cohorts and 8 processes: set rowsPerObjective: 128, or use 1 process" in uneven
    untrained = {**SMALLEST, "spec": {**SMALLEST["spec"], "stages": {"train": {"mode": "Never"}}}}
    assert not any("cohorts" in note for note in cluster_notes(parse_job(untrained))), "no rows are dealt"


def test_every_pattern_means_the_same_to_go_and_to_rust() -> None:
    """Go reads them in an API server, Rust here: `\\s`, `\\d` and `\\w` are ASCII to one and Unicode to the other."""
    text = json.dumps(UniMRGJob.model_json_schema(by_alias=True))
    patterns = {json.loads(f'"{found}"') for found in re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', text)}
    assert len(patterns) >= 12
    for pattern in patterns:
        assert not re.search(r"\(\?|\\[1-9AbBdDsSwWzZpP]", pattern), pattern
        assert pattern.startswith("^")
        assert pattern.endswith("$")
