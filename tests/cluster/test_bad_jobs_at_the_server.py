"""A real API server that knows our custom resource refuses and takes the same jobs as the models, at the same paths."""

from __future__ import annotations

import copy
import json
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPSConnection
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.bad_jobs import BAD_JOBS, FOR_A_CLUSTER, HARMON_PARTS, OPENUNI_PARTS, BadJob, on_cluster, places
from tests.support.control_plane import ControlPlane
from tests.support.good_jobs import GOOD_CLUSTER_JOB, GOOD_JOB
from tools.crd import crd
from unimrg_api.cluster import GROUP, PLURAL, VERSION
from unimrg_api.errors import JobError, Problem
from unimrg_api.load import dump_job, parse_job
from unimrg_api.locality import CLUSTER_RULES, cluster_problems
from unimrg_api.server_reply import problems_of
from unimrg_api.status import JobStatus
from unimrg_api.yaml_source import read_yaml

SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
SEEN = [case for case in BAD_JOBS + FOR_A_CLUSTER if case.server_sees]
INFINITY = float("inf")
TIME = "2026-01-02T03:04:05Z"


@dataclass(frozen=True)
class Jobs:
    """The jobs of one namespace, over plain HTTP, so that replies are seen as they are."""

    plane: ControlPlane
    namespace: str
    connection: HTTPSConnection

    def send(self, method: str, body: Any, name: str = "", kind: str = "application/json", query: str = "") -> Any:
        """Return the API server's reply: the object, or a Status that says why not."""
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{PLURAL}{name}?fieldValidation=Strict{query}"
        token = json.loads(self.plane.kubeconfig.read_text())["users"][0]["user"]["token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
        self.connection.request(method, path, json.dumps(body).encode(), headers)
        return json.load(self.connection.getresponse())

    def problems(self, job: Any) -> list[Problem]:
        """Return what the API server finds wrong with a job, which it does not keep."""
        reply = self.send("POST", job, query="&dryRun=All")
        return problems_of(reply) if reply["kind"] == "Status" else []


@pytest.fixture(scope="module")
def jobs(control_plane: ControlPlane) -> Iterator[Jobs]:
    control_plane.apply(crd())
    control_plane.kubectl("wait", "--for=condition=Established", f"crd/{PLURAL}.{GROUP}", "--timeout=30s")
    control_plane.create_namespace("jobs-at-the-server")
    context = ssl.create_default_context(cafile=str(control_plane.authority))
    connection = HTTPSConnection("127.0.0.1", control_plane.ports["kube-apiserver"], timeout=30.0, context=context)
    yield Jobs(control_plane, "jobs-at-the-server", connection)
    connection.close()
    control_plane.kubectl("delete", "namespace", "jobs-at-the-server", "--wait=false")


def values(text: str) -> Any:
    return read_yaml(text.encode()).value


def sent(case: BadJob) -> Any:
    return on_cluster(values(case.text)) if case.base is GOOD_JOB else values(case.text)


def good(name: str) -> Any:
    job = values(GOOD_CLUSTER_JOB)
    job["metadata"]["name"] = name
    return job


@pytest.mark.parametrize("case", SEEN, ids=lambda case: case.name)
def test_a_bad_job_is_refused_at_the_path_of_the_command_line(case: BadJob, jobs: Jobs) -> None:
    problems = jobs.problems(sent(case))
    assert problems
    if case.path not in ("apiVersion", "metadata.name"):  # what a server cannot even decode has no path
        assert {problem.path for problem in problems} == {case.path}, problems


def test_every_rule_refuses_something_in_the_corpus(jobs: Jobs) -> None:
    said = {(problem.path, problem.message) for case in SEEN for problem in jobs.problems(sent(case))}
    for rule in CLUSTER_RULES:
        assert any(path == f"spec.{rule.path}" and rule.message in message for path, message in said), rule
    rules = set(re.findall(r'"x-kubernetes-validations": (\[.*?\])(?:, "|\})', json.dumps(SCHEMA["spec"])))
    # a rule about changes refuses nothing that is new
    messages = {one["message"] for found in rules for one in json.loads(found) if "oldSelf" not in one["rule"]}
    assert len(messages) > 15
    assert [text for text in messages if not any(text in message for _, message in said)] == []


CUSTOM_JOB = GOOD_CLUSTER_JOB.replace("name: good-on", "name: custom-on").replace(
    "harmon: {variant: 0.5B}", "custom: {name: toy, settings: {a: [1, 2.5, {b: null}, 3.0, 1e300, -7], c: {}}}"
)


@pytest.mark.parametrize("text", [GOOD_JOB, GOOD_CLUSTER_JOB, CUSTOM_JOB], ids=["laptop's", "cluster's", "custom"])
def test_a_good_job_is_kept_with_the_defaults_of_the_models(text: str, jobs: Jobs) -> None:
    job = on_cluster(values(text))
    kept = jobs.send("POST", job)
    assert kept["kind"] == "UniMRGJob", kept
    assert kept["spec"] == dump_job(parse_job(job))["spec"]


def test_no_field_of_a_job_can_be_changed_but_the_few_that_may(jobs: Jobs) -> None:
    job = good("stays")
    job["spec"] |= {"queue": {"name": "team"}, "objectives": values(GOOD_JOB)["spec"]["objectives"]}
    name = jobs.send("POST", job)["metadata"]["name"]

    def patched(spec: dict[str, Any]) -> Any:
        return jobs.send("PATCH", {"spec": spec}, f"/{name}", "application/merge-patch+json")

    refused = {
        "spec.training": {"training": {"seed": 43}},
        "spec.image": {"image": "other:1"},
        "spec.objectives": {"objectives": None},
        "spec.queue.name": {"queue": {"name": "other"}},
        "spec.queue": {"queue": None},
        "spec.runPolicy.backoffSeconds": {"runPolicy": {"backoffSeconds": 6}},
        "spec.runPolicy.keepFailedPodSeconds": {"runPolicy": {"keepFailedPodSeconds": 60}},
    }
    for path, change in refused.items():
        (problem,) = problems_of(patched(change))
        assert f"{path.removeprefix('spec.')} cannot be changed" in problem.message
        assert problem.path == path
    taken = {"maxRestarts": 9, "maxInfraRestarts": 9, "activeDeadlineSeconds": 3600, "ttlSecondsAfterFinished": 0}
    queue = {"name": "team", "priorityClass": "urgent"}
    kept = patched({"suspend": True, "queue": queue, "runPolicy": taken, "training": {"seed": 42}})["spec"]
    assert (kept["suspend"], kept["queue"], kept["runPolicy"]) == (True, queue, kept["runPolicy"] | taken)
    assert "activeDeadlineSeconds" not in patched({"runPolicy": {"activeDeadlineSeconds": None}})["spec"]["runPolicy"]
    labels = jobs.send("PATCH", {"metadata": {"labels": {"a": "b"}}}, f"/{name}", "application/merge-patch+json")
    assert labels["metadata"]["labels"] == {"a": "b"}


def largest(schema: dict[str, Any], number: int = 0) -> Any:
    """Return a value of full size for a schema of the status; `number` tells the entries of a list apart."""
    if "enum" in schema:
        return schema["enum"][number % len(schema["enum"])]
    if schema["type"] == "string":
        pattern = schema.get("pattern", "")
        return TIME if "T" in pattern else (f"R{number}" + ("R" if pattern else "ü") * 4096)[: schema["maxLength"]]
    if schema["type"] == "integer":
        return schema.get("maximum", 10**7)
    if schema["type"] == "array":
        keys = [schema["items"]["properties"][key] for key in schema.get("x-kubernetes-list-map-keys", ())]
        count = min([schema["maxItems"], *(len(key["enum"]) for key in keys if "enum" in key)])
        return [largest(schema["items"], index) for index in range(count)]
    if "additionalProperties" in schema:
        return {f"node-{index}": 3 for index in range(schema["maxProperties"])}
    return {name: largest(item, number) for name, item in schema["properties"].items()}


STATUS = largest(SCHEMA["status"])


def put_status(jobs: Jobs, name: str, status: dict[str, Any]) -> Any:
    job = jobs.send("POST", good(name))
    return jobs.send("PUT", {**job, "status": status}, f"/{name}/status")


def test_a_status_of_full_size_is_kept_as_it_was_written(jobs: Jobs) -> None:
    kept = put_status(jobs, "full", STATUS)
    assert kept.get("status") == STATUS, kept
    assert JobStatus.model_validate(kept["status"]).model_dump(mode="json", by_alias=True, exclude_none=True) == STATUS


def test_of_a_status_nothing_is_added_and_no_longer_message_is_taken(jobs: Jobs) -> None:
    assert put_status(jobs, "small", {"phase": "Pending"})["status"] == {"phase": "Pending"}
    status = copy.deepcopy(STATUS)
    status["conditions"][0]["message"] += "x"
    problems = problems_of(put_status(jobs, "long", status))
    assert [problem.path for problem in problems] == ["status.conditions[0].message"]


def test_kubectl_shows_the_columns(jobs: Jobs) -> None:
    put_status(jobs, "shown", {**STATUS, "reason": "Advancing"})
    header, row = jobs.plane.kubectl("get", "umj", "shown", "-o", "wide", f"--namespace={jobs.namespace}").splitlines()
    columns = ["NAME", "PHASE", "STEP", "LOSS", "ETA", "ATTEMPT", "AGE", "MLFLOW"]
    assert header.split() == [*columns, "METHOD", "NODES", "QUEUE", "REASON", "CHECKPOINT", "SCORES"]
    cells = row.split()  # there is no queue, and nothing stands in its column
    assert cells[:2] + cells[8:-1] == ["shown", STATUS["phase"], "UniMRG", "2", "Advancing", "10000000"]


def test_jobs_can_be_asked_for_by_method_and_phase(jobs: Jobs) -> None:
    put_status(jobs, "asked-for", {"phase": "Finishing"})
    asked = "spec.method=UniMRG,status.phase=Finishing"
    found = jobs.plane.kubectl("get", "umj", f"--namespace={jobs.namespace}", f"--field-selector={asked}", "-o", "name")
    assert found.split() == [f"{PLURAL[:-1]}.{GROUP}/asked-for"]


def test_kubectl_reads_every_value_that_is_taken_as_it_is_read_here(jobs: Jobs) -> None:
    """`kubectl` reads YAML 1.1, the command line 1.2: what they would read differently must have been refused."""
    random = Random(1)
    pieces = [*"0123456789017_.:+-~=eEy", "0x", "0b", "0o", "no", "On", "true", "null", ".inf", "-"]
    texts = {"".join(random.choices(pieces, k=random.randint(1, 6))) for _ in range(4000)}
    taken = {}
    for number, text in enumerate(sorted(texts)):
        document = read_yaml(f"x: {text}\n".encode())
        whole = json.loads(json.dumps(document.value)) if not document.problems else None
        if (
            isinstance(whole, dict)
            and not isinstance(whole["x"], dict | list)
            and whole["x"] not in (INFINITY, -INFINITY)
        ):
            taken[f"k{number}"] = (text, whole["x"])
    assert len(taken) > 1000
    settings = "".join(f"\n        {key}: {text}" for key, (text, _) in taken.items())
    job = CUSTOM_JOB.replace("custom: {name: toy, settings: {a: [1, 2.5, {b: null}, 3.0, 1e300, -7], c: {}}}", "X")
    job = job.replace("model: {X,", f"model:\n    custom:\n      name: toy\n      settings:{settings}\n    #")
    created = jobs.plane.kubectl("create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-", input=job)
    read = json.loads(created)["spec"]["model"]["custom"]["settings"]
    wrong = {text: (mine, read[key]) for key, (text, mine) in taken.items() if read[key] != mine}
    assert wrong == {}


# --- the same verdict about anything ------------------------------------------------------------------------

ANYTHING = st.recursive(  # without null, which a server takes for absence, and without floats that are whole
    st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from([0.5, -1.5, "1", "Tiny"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=3),
    max_leaves=6,
)
PIECES = [
    "file://", "s3://runs", "/", "/", "mnt/scratch", "mnt/models", "..", ".", "%2e", "%2F", "%00", "%C3%BC", "%", "a",
    "a" * 100, "ü" * 50, " ", "\t", "\n", "\x00", "\x1f", "\x7f", "\x85", "\xa0", "\u2028", "\u3000", "\U0001f600", "@",
    "https://", "\\", "http://h", ":9000", "sqlite:///", "0", "1", ".5", "e-3", "E+0", "-", "A", "_", "x.y",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
URIS = st.tuples(st.sampled_from(["file:///mnt/scratch", "file:///mnt/models/", "s3://runs/", ""]), TEXTS).map("".join)
CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
checked = settings(max_examples=250, suppress_health_check=CHECKS, derandomize=True)


def check_verdict(job: Any, jobs: Jobs) -> None:
    try:
        ours = [str(problem) for problem in cluster_problems(parse_job(job))]
    except JobError as error:
        ours = [str(problem) for problem in error.problems]
    theirs = [str(problem) for problem in jobs.problems(job)]
    assert bool(ours) == bool(theirs), f"{json.dumps(job)}\nmodels: {ours}\nserver: {theirs}"


def anywhere(job: Any, index: int, new: Any) -> None:
    """Put a value anywhere into the spec, or in its place."""
    found = places({"spec": job["spec"]})
    container, key = found[index % len(found)]
    (job if key == "spec" else container)[key] = new


def as_uri(job: Any, index: int, uri: str) -> None:
    spec = job["spec"]
    images = spec["data"]["sources"][1]
    holders = [(spec["model"], "init", uri), (spec["data"], "shards", [uri]), (images, "images", {"uri": uri})]
    holder, key, value = [*holders, (spec["checkpoint"], "uri", uri)][index % 4]
    holder[key] = value


def as_text(job: Any, index: int, text: str) -> None:
    """Put a text in the place of another one, in a job that has all of them."""
    job["spec"] = dump_job(parse_job(job))["spec"] | {
        "image": "trainer:1",
        "objectives": [{"name": "Understanding", "weight": "1"}, {"name": "Pixel", "weight": "0.5"}],
    }
    job["spec"]["tracking"]["mlflow"]["runName"] = "run"
    found = [(container, key) for container, key in places(job["spec"]) if isinstance(container[key], str)]
    container, key = found[index % len(found)]
    container[key] = text


@pytest.mark.parametrize(("change", "values"), [(anywhere, ANYTHING), (as_uri, URIS), (as_text, TEXTS)])
@checked
@given(data=st.data(), index=st.integers(0, 10**6))
def test_anything_anywhere_gets_the_same_verdict(
    change: Callable[..., None], values: st.SearchStrategy[Any], data: st.DataObject, index: int, jobs: Jobs
) -> None:
    job = good("any")
    change(job, index, data.draw(values))
    check_verdict(job, jobs)


MOUNTS = ["/mnt/scratch", "/mnt", "/mnt/scratch/a", "/mnt/scratch/", "/spare", "", "mnt", "/tmp", "/run", "/a/../b"]


@settings(checked, max_examples=100)
@given(
    paths=st.lists(st.sampled_from(MOUNTS), max_size=3),
    locked=st.integers(0, 3),
    init=st.sampled_from(["file:///mnt/scratch/a/b", "file:///tmp/w", "file:///spare"]),
)
def test_any_volumes_are_wrong_at_the_same_paths(paths: list[str], locked: int, init: str, jobs: Jobs) -> None:
    job = good("any")
    job["spec"]["model"]["init"] = init
    job["spec"]["data"] = {"sources": job["spec"]["data"]["sources"][:1], "shards": [init]}
    job["spec"]["trainer"]["volumes"] = [
        {"claimName": "claim", "mountPath": path, "readOnly": "Always" if index == locked else "Never"}
        for index, path in enumerate(paths)
    ]
    theirs = {problem.path for problem in jobs.problems(job)}
    try:
        ours = {problem.path for problem in cluster_problems(parse_job(job))}
    except JobError as error:  # then the models do not ask what a cluster would say, and a server says it all the same
        ours = {problem.path for problem in error.problems}
        theirs = {path for path in theirs if path.startswith("spec.trainer.volumes")}
    assert ours == theirs


@checked
@given(
    nodes=st.integers(0, 65),
    gpus=st.integers(-1, 17),
    processes=st.integers(0, 65),
    rows=st.sampled_from([-64, 0, 1, 48, 64, 128, 65_536, 65_537]),
    cohort=st.sampled_from([-4, 0, 1, 3, 4, 16]),
)
def test_any_split_gets_the_same_verdict(
    nodes: int, gpus: int, processes: int, rows: int, cohort: int, jobs: Jobs
) -> None:
    job = good("any")
    job["spec"]["trainer"] |= {"nodes": nodes, "gpusPerNode": gpus, "processesPerNode": processes}
    job["spec"]["training"]["batch"] |= {"rowsPerObjective": rows, "cohortRows": cohort}
    check_verdict(job, jobs)


FREEZABLE = {
    "harmon": (["Tiny", "1.5B"], HARMON_PARTS),
    "openuni": (["Tiny"], OPENUNI_PARTS),
    "showo": (["Tiny", "VQ-512"], ("LanguageModel", "Projector")),
}


@checked
@given(data=st.data(), family=st.sampled_from(sorted(FREEZABLE)), method=st.sampled_from(["SFT", "RecA", "UniMRG"]))
def test_any_frozen_parts_get_the_same_verdict(data: st.DataObject, family: str, method: str, jobs: Jobs) -> None:
    variants, parts = FREEZABLE[family]
    job = good("any")
    job["spec"]["model"] = {family: {"variant": data.draw(st.sampled_from(variants))}}
    job["spec"]["method"] = method
    if data.draw(st.booleans()):
        names = ["Understanding", "Pixel", "Depth"] if method == "UniMRG" else ["Understanding", "Pixel"]
        weights = {name: data.draw(st.sampled_from(["0", "0.0", "0.5"])) for name in names}
        job["spec"]["objectives"] = [{"name": name, "weight": weight} for name, weight in weights.items()]
    scales = {part: data.draw(st.sampled_from(["0", "0.00", "0", "0.1"])) for part in parts if data.draw(st.booleans())}
    job["spec"]["training"]["parts"] = [{"name": part, "learningRateScale": scale} for part, scale in scales.items()]
    check_verdict(job, jobs)
