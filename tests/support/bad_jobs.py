"""The corpus of bad jobs, one long table: each is a good job with one change, and what must be said about it.

Command line, API server and operator are held to the same table.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

GOOD_JOB = """\
apiVersion: training.unimrg.dev/v1alpha1
kind: UniMRGJob
metadata:
  name: good
spec:
  model:
    harmon: {variant: Tiny, dropout: "0.1", sampling: {guidance: "2.0"}}
  method: UniMRG
  objectives:
    - {name: Understanding, weight: "1"}
    - {name: Depth, weight: "0.5"}
  training:
    batch: {rowsPerObjective: 16, cohortRows: 8, microBatchRows: 4}
    optimizer: {learningRate: "1e-3", weightDecay: "0.02"}
    schedule: {warmupSteps: 5, totalSteps: 50}
    stopStep: 40
    precision: FP32
    seed: 42
  trainer: {nodes: 1, gpusPerNode: 0, processesPerNode: 2}
  data:
    sources:
      - scenes: {train: 100, heldOut: 10, imageSize: 48, seed: 7}
    shards: [file://data]
  checkpoint:
    uri: file://run
    everySteps: 10
    keepLast: 3
    resume: IfPresent
    graceSeconds: 60
  tracking:
    mlflow: {experiment: tests}
  stages:
    evaluate: {mode: OnSuccess, benchmarks: [spatial: {questions: 8}]}
  runPolicy: {stallTimeoutSeconds: 120}
"""
"""Every field but the optional URIs and what is for a cluster only; it is valid."""

GOOD_CLUSTER_JOB = """\
apiVersion: training.unimrg.dev/v1alpha1
kind: UniMRGJob
metadata:
  name: good-on-a-cluster
spec:
  model: {harmon: {variant: 0.5B}, init: file:///mnt/models/harmon}
  training:
    batch: {rowsPerObjective: 64, cohortRows: 4, microBatchRows: 4}
  trainer:
    nodes: 2
    gpusPerNode: 8
    serviceAccountName: trainer
    volumes:
      - {claimName: models, mountPath: /mnt/models, readOnly: Always}
      - {claimName: scratch, mountPath: /mnt/scratch}
      - {claimName: spare, mountPath: /mnt/spare}
  data:
    sources:
      - scenes: {train: 100, heldOut: 10, imageSize: 48, seed: 7}
      - images: {uri: file:///mnt/models/photographs}
    shards: [file:///mnt/scratch/shards]
  storage:
    endpoint: https://minio.example:9000
    region: eu-central-1
    addressing: Path
    checksums: WhenRequired
    credentials: {secretName: store-keys}
  checkpoint: {uri: s3://runs/good}
  tracking:
    mlflow: {uri: "https://mlflow.example", credentials: {secretName: mlflow-keys}}
  runPolicy: {maxRestarts: 2, maxInfraRestarts: 10, backoffSeconds: 5, maxBackoffSeconds: 60}
"""
"""A job that a cluster takes too, with the fields that matter there."""


SMALLEST: dict[str, Any] = {
    "apiVersion": "training.unimrg.dev/v1alpha1",
    "kind": "UniMRGJob",
    "metadata": {"name": "small"},
    "spec": {
        "model": {"harmon": {"variant": "0.5B"}},
        "data": {"shards": ["s3://bucket/shards"]},
        "checkpoint": {"uri": "s3://bucket/run"},
    },
}
"""What a job must say, and nothing else."""


@dataclass(frozen=True)
class BadJob:
    """`old` in the good job becomes `new`; then `path` is wrong, and message and remedy say `words`.

    `server_sees` tells whether an API server gets to see what is wrong: NaN, tags and doubles do not survive the way
    through JSON, and a null at a field that may be absent is taken out before anything is checked. `base` is the good
    job.
    """

    name: str
    old: str
    new: str
    path: str
    words: tuple[str, ...]
    exit_code: int = 64
    server_sees: bool = True
    base: str = GOOD_JOB

    @property
    def text(self) -> str:
        assert self.base.count(self.old) == 1, f"{self.name}: {self.old!r} is not in the good job exactly once"
        return self.base.replace(self.old, self.new)


def on_cluster(value: Any) -> Any:
    """Return a job for a laptop with what the *good* one has for a laptop only replaced by what a cluster takes.

    What a bad job has in its place stays.
    """
    value = copy.deepcopy(value)
    spec = value.get("spec", {})
    checkpoint, data, mlflow = spec.get("checkpoint"), spec.get("data"), spec.get("tracking", {}).get("mlflow")
    if checkpoint and checkpoint.get("uri") == "file://run":
        checkpoint["uri"] = "s3://bucket/run"
    if data and data.get("shards") == ["file://data"]:
        data["shards"] = ["s3://bucket/data"]
    if mlflow is not None:
        mlflow.setdefault("uri", "http://mlflow:5000")
    return value


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything in a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(value, key) for key, _ in items] + [place for _, item in items for place in places(item)]


MODEL = 'model:\n    harmon: {variant: Tiny, dropout: "0.1", sampling: {guidance: "2.0"}}'
SCENES = "      - scenes: {train: 100, heldOut: 10, imageSize: 48, seed: 7}"
BATCH, OBJECTIVES, TRAINING = "spec.training.batch", "spec.objectives", "spec.training"

BAD_JOBS = [
    # fields
    BadJob("misspelt field", "microBatchRows:", "microBatchRow:", f"{BATCH}.microBatchRow", ("microBatchRows?",)),
    BadJob("snake case", "microBatchRows:", "micro_batch_rows:", f"{BATCH}.micro_batch_rows", ("microBatchRows?",)),
    BadJob("other case", "keepLast:", "keeplast:", "spec.checkpoint.keeplast", ("keepLast?",)),
    BadJob(
        "field in another place",
        "  method: UniMRG",
        "  learningRate: 1",
        "spec.learningRate",
        ("spec.training.optimizer.learningRate?",),
    ),
    BadJob("field nobody knows", "method: UniMRG", "zebra: 1", "spec.zebra", ("no field 'zebra'", "model, method")),
    BadJob("node for nodes", "nodes: 1", "node: 1", "spec.trainer.node", ("nodes?",)),
    BadJob("missing variant", "variant: Tiny, ", "", "spec.model.harmon.variant", ("missing", "Tiny, 0.5B, 1.5B")),
    BadJob("missing uri", "    uri: file://run\n", "", "spec.checkpoint.uri", ("missing", "prefix of the run")),
    BadJob("missing name", "  name: good", "  labels: {}", "metadata.name", ("missing",)),
    BadJob("null", "seed: 42", "seed: null", f"{TRAINING}.seed", ("null", "leave the field out"), server_sees=False),
    BadJob("nothing after a colon", "seed: 42", "seed:", f"{TRAINING}.seed", ("no value",), server_sees=False),
    BadJob(
        "null at a required field", "variant: Tiny", "variant: ~", "spec.model.harmon.variant", ("no value", "Tiny")
    ),
    BadJob(
        "null for a field without default",
        "stopStep: 40",
        "stopStep: ~",
        f"{TRAINING}.stopStep",
        ("no value",),
        server_sees=False,
    ),
    # whole numbers
    BadJob(
        "negative batch", "rowsPerObjective: 16", "rowsPerObjective: -16", f"{BATCH}.rowsPerObjective", ("least 1",)
    ),
    BadJob("zero nodes", "nodes: 1", "nodes: 0", "spec.trainer.nodes", ("at least 1", "from 1 to 64")),
    BadJob("too many nodes", "nodes: 1", "nodes: 65", "spec.trainer.nodes", ("at most 64",)),
    BadJob("number in words", "nodes: 1", "nodes: two", "spec.trainer.nodes", ("whole number, not a text",)),
    BadJob("fraction of a node", "nodes: 1", "nodes: 2.5", "spec.trainer.nodes", ("whole number, not a fraction",)),
    BadJob("quoted number", "stopStep: 40", 'stopStep: "40"', f"{TRAINING}.stopStep", ("stopStep: 40 (no quotes)",)),
    BadJob("true as a number", "nodes: 1", "nodes: true", "spec.trainer.nodes", ("not true/false",)),
    BadJob("NaN as a whole number", "seed: 42", "seed: .nan", f"{TRAINING}.seed", ("NaN",), server_sees=False),
    BadJob("huge seed", "seed: 42", "seed: 99999999999999999999", f"{TRAINING}.seed", ("at most 4294967295",)),
    BadJob("short grace", "graceSeconds: 60", "graceSeconds: 5", "spec.checkpoint.graceSeconds", ("at least 30",)),
    # decimal strings
    BadJob(
        "NaN weight",
        'weight: "0.5"',
        "weight: .nan",
        f"{OBJECTIVES}[1].weight",
        ("NaN is not a number", 'weight: "1"'),
        server_sees=False,
    ),
    BadJob("NaN weight in quotes", '"0.5"', '"NaN"', f"{OBJECTIVES}[1].weight", ("NaN is not a number",)),
    BadJob("infinite weight", '"0.5"', '"inf"', f"{OBJECTIVES}[1].weight", ("infinity is not a number",)),
    BadJob("negative weight", '"0.5"', '"-0.5"', f"{OBJECTIVES}[1].weight", ('from "0" to "9999.999999"',)),
    BadJob("scientific weight", '"0.5"', '"5e-1"', f"{OBJECTIVES}[1].weight", ("decimal number",)),
    BadJob("bare weight", '"0.5"', "0.5", f"{OBJECTIVES}[1].weight", ("in quotes", 'weight: "0.5"')),
    BadJob("whole bare weight", '"0.5"', "2", f"{OBJECTIVES}[1].weight", ("in quotes", 'weight: "2"')),
    BadJob(
        "bare rate",
        'learningRate: "1e-3"',
        "learningRate: 1e-3",
        f"{TRAINING}.optimizer.learningRate",
        ("in quotes", 'learningRate: "1e-3"'),
    ),
    BadJob("zero rate", '"1e-3"', '"0"', f"{TRAINING}.optimizer.learningRate", ("above zero",)),
    BadJob("endless rate", '"1e-3"', '"1e99"', f"{TRAINING}.optimizer.learningRate", ("less than",)),
    BadJob("rate of a thousand", '"1e-3"', '"1000"', f"{TRAINING}.optimizer.learningRate", ("less than",)),
    BadJob("endless decay", '"0.02"', '"1e3"', f"{TRAINING}.optimizer.weightDecay", ("less than",)),
    BadJob("negative decay", '"0.02"', '"-0.02"', f"{TRAINING}.optimizer.weightDecay", ("zero or more",)),
    BadJob("dropout of one", 'dropout: "0.1"', 'dropout: "1"', "spec.model.harmon.dropout", ('less than "1"',)),
    BadJob("list as a weight", '"0.5"', "[1]", f"{OBJECTIVES}[1].weight", ("not a list",)),
    # choices
    BadJob(
        "objective that does not exist",
        "name: Depth",
        "name: Normals",
        f"{OBJECTIVES}[1].name",
        ("no objective 'Normals'", "Understanding, Pixel, Depth, Segmentation"),
    ),
    BadJob("misspelt objective", "name: Depth", "name: depht", f"{OBJECTIVES}[1].name", ("mean Depth?",)),
    BadJob("model family", "harmon:", "harmony:", "spec.model.harmony", ("harmon?",)),
    BadJob("no family", MODEL, "model: {}", "spec.model", ("harmon, custom",)),
    BadJob("two families", MODEL, MODEL + "\n    custom: {name: toy}", "spec.model", ("harmon and custom are given",)),
    BadJob("custom name", MODEL, "model: {custom: {name: 1st}}", "spec.model.custom.name", ("letters, digits",)),
    BadJob("settings", MODEL, "model: {custom: {name: a, settings: 1}}", "spec.model.custom.settings", ("mapping",)),
    BadJob(
        "NaN in settings",
        MODEL,
        "model: {custom: {name: a, settings: {x: [.nan]}}}",
        "spec.model.custom.settings",
        ("NaN",),
        server_sees=False,
    ),
    BadJob("variant", "variant: Tiny", "variant: 7B", "spec.model.harmon.variant", ("Tiny, 0.5B, 1.5B",)),
    BadJob("variant as a number", "variant: Tiny", "variant: 0.5", "spec.model.harmon.variant", ("0.5B?",)),
    BadJob("method in small letters", "method: UniMRG", "method: unimrg", "spec.method", ("mean UniMRG?",)),
    BadJob("precision", "precision: FP32", "precision: FP8", f"{TRAINING}.precision", ("FP32, BF16 or FP64",)),
    BadJob("resume as a bool", "resume: IfPresent", "resume: true", "spec.checkpoint.resume", ("IfPresent, Never",)),
    BadJob(
        "benchmark that does not exist",
        "[spatial: {questions: 8}]",
        "[mmBench: {}]",
        "spec.stages.evaluate.benchmarks[0].mmBench",
        ("no field 'mmBench'", "spatial"),
    ),
    BadJob("other version", "/v1alpha1", "/v1", "apiVersion", ("training.unimrg.dev/v1alpha1",)),
    BadJob("other kind", "kind: UniMRGJob", "kind: PyTorchJob", "kind", ("not a UniMRGJob", "write UniMRGJob")),
    # texts
    BadJob("name of 41 letters", "name: good", f"name: {'a' * 41}", "metadata.name", ("41 characters", "at most 40")),
    BadJob("name with spaces", "name: good", "name: My Job", "metadata.name", ("lower-case", "name: my-job")),
    BadJob("name that is a number", "name: good", "name: 12", "metadata.name", ("must be a text", 'name: "12"')),
    BadJob("empty experiment", "experiment: tests", 'experiment: ""', "spec.tracking.mlflow.experiment", ("is empty",)),
    BadJob(
        "password in an address",
        "experiment: tests",
        'uri: "https://me:hunter2@mlflow"',
        "spec.tracking.mlflow.uri",
        ("password", "MLFLOW_TRACKING_USERNAME"),
    ),
    BadJob("image with spaces", "method: UniMRG", "image: a b", "spec.image", ("white space",)),
    BadJob(
        "runs in files, which MLflow no longer reads",
        "experiment: tests",
        "uri: file:///runs",
        "spec.tracking.mlflow.uri",
        ("address of a tracking server",),
    ),
    # URIs
    BadJob("NUL", "uri: file://run", "uri: file://a%00b", "spec.checkpoint.uri", ("NUL", "take it out")),
    BadJob("bare NUL", "uri: file://run", 'uri: "file://a\\0b"', "spec.checkpoint.uri", ("NUL", "take it out")),
    BadJob("long name", "uri: file://run", f"uri: file://{'a' * 256}/b", "spec.checkpoint.uri", ("256 bytes", "255")),
    BadJob("long name in UTF-8", "[file://data]", f"[s3://bucket/{'ü' * 128}]", "spec.data.shards[0]", ("256 bytes",)),
    *(
        BadJob(f"{name} in a key", "uri: file://run", f'uri: "s3://bucket/{key}"', "spec.checkpoint.uri", (words,))
        for name, key, words in [
            ("empty part", "a//b", "empty part"),
            ("slash at the beginning", "/a", "empty part"),
            ("dot", "./a", "or . or .."),
            ("dots", "a/../b", "or . or .."),
            ("dots at the end", "a/..", "or . or .."),
            ("backslash", "a\\\\b", "backslash"),
            ("delete", "a\\x7fb", "control character"),
            ("space", "a b", "white space"),
            ("too many bytes", "/".join(["\u00fc" * 120] * 5), "1024 bytes"),
        ]
    ),
    BadJob("bare path", "uri: file://run", "uri: /runs/x", "spec.checkpoint.uri", ("uri: file:///runs/x",)),
    BadJob("one slash", "uri: file://run", "uri: s3:/bucket/x", "spec.checkpoint.uri", ("uri: s3://bucket/x",)),
    BadJob("bucket alone", "uri: file://run", "uri: s3://bucket", "spec.checkpoint.uri", ("s3://bucket/prefix",)),
    BadJob("large bucket", "uri: file://run", "uri: s3://Bucket/x", "spec.checkpoint.uri", ("lower-case letters",)),
    BadJob("other store", "uri: file://run", "uri: hf://a/b", "spec.checkpoint.uri", ("hf:", "s3:// and file://")),
    # shapes
    BadJob("list as an object", "{warmupSteps: 5, totalSteps: 50}", "[5, 50]", f"{TRAINING}.schedule", ("not a list",)),
    BadJob("text as a list", "[file://data]", "file://data", "spec.data.shards", ("must be a list", "[file://data]")),
    BadJob("empty list", "[file://data]", "[]", "spec.data.shards", ("at least one entry",)),
    BadJob("two shard prefixes", "[file://data]", "[file://data, file://more]", "spec.data.shards", ("at most 1",)),
    # rules between fields
    BadJob("uneven cohorts", "cohortRows: 8", "cohortRows: 5", f"{BATCH}.rowsPerObjective", ("15 or 20",)),
    BadJob("warm-up too long", "warmupSteps: 5", "warmupSteps: 51", f"{TRAINING}.schedule.warmupSteps", ("most 50",)),
    BadJob("stop beyond the horizon", "stopStep: 40", "stopStep: 51", f"{TRAINING}.stopStep", ("at most 50",)),
    BadJob("objective twice", "name: Depth", "name: Understanding", OBJECTIVES, ("both named",)),
    BadJob(
        "UniMRG without a generative objective",
        '    - {name: Depth, weight: "0.5"}\n',
        "",
        OBJECTIVES,
        ("UniMRG needs Understanding and at least one map",),
    ),
    BadJob(
        "SFT with Depth", "method: UniMRG", "method: SFT", OBJECTIVES, ("SFT learns Understanding and nothing else",)
    ),
    BadJob("RecA with Depth", "method: UniMRG", "method: RecA", OBJECTIVES, ("RecA learns Pixel",)),
    BadJob("UniMRG with a weight of zero", '"0.5"', '"0.0"', OBJECTIVES, ("above zero",)),
    BadJob(
        "all weights zero",
        '"1"}\n    - {name: Depth, weight: "0.5"',
        '"0"}\n    - {name: Depth, weight: "0"',
        OBJECTIVES,
        ("nothing to learn",),
    ),
    BadJob(
        "benchmark twice", "[spatial: {q", "[spatial: {}, spatial: {q", "spec.stages.evaluate.benchmarks", ("both",)
    ),
    BadJob("empty benchmark", "spatial: {questions: 8}", "{}", "spec.stages.evaluate.benchmarks[0]", ("none is",)),
    BadJob("source twice", SCENES, SCENES + "\n" + SCENES, "spec.data.sources", ("both named scenes",)),
    BadJob("empty source", SCENES, "      - {}", "spec.data.sources[0]", ("scenes, images, custom",)),
    BadJob("nothing to train on", SCENES, "      - images: {uri: file:///a}", "spec.data.sources", ("scenes",)),
    BadJob("objective of two names", "{name: Depth,", "{name: Depth, custom: a,", f"{OBJECTIVES}[1]", ("name and",)),
    # YAML
    BadJob(
        "key twice",
        "    keepLast: 3",
        "    uri: file://b",
        "spec.checkpoint.uri",
        ("twice", "line 25"),
        server_sees=False,
    ),
    BadJob(
        "merge key", "    keepLast: 3", "    <<: {keepLast: 3}", "spec.checkpoint.<<", ("merge",), server_sees=False
    ),
    BadJob("tag", "seed: 42", "seed: !secret 42", f"{TRAINING}.seed", ("tag !secret",), server_sees=False),
]


def _on_cluster(name: str, old: str, new: str, path: str, *words: str) -> BadJob:
    return BadJob(name, old, new, path, words, base=GOOD_CLUSTER_JOB)


BATCH_ROWS, INIT, SHARDS = "spec.training.batch.rowsPerObjective", "spec.model.init", "spec.data.shards"
ENDPOINT, MOUNT = "spec.storage.endpoint", "spec.trainer.volumes[2].mountPath"
SCRATCH = "spec.trainer.volumes[1].mountPath"

BAD_JOBS += [
    _on_cluster("keys in an endpoint", "https://minio", "https://me:hunter2@minio", ENDPOINT, "password", "Secret"),
    _on_cluster("bucket in an endpoint", "example:9000", "example:9000/bucket", ENDPOINT, "host and port", "https://"),
    _on_cluster("endpoint without a scheme", "https://minio", "minio", ENDPOINT, "scheme", "write e.g. endpoint:"),
    _on_cluster("port of an endpoint", "example:9000", "example:65536", ENDPOINT, "at most 65535"),
    _on_cluster("region in capitals", "eu-central-1", "EU", "spec.storage.region", "lower-case letters"),
    _on_cluster("addressing", ": Path", ": path", "spec.storage.addressing", "mean Path?"),
    _on_cluster("secret's name", "store-keys", "Store_Keys", "spec.storage.credentials.secretName", "store-keys"),
    _on_cluster("two dots in a name", "scratch, ", "scr..atch, ", "spec.trainer.volumes[1].claimName", "single dots"),
    _on_cluster("keys themselves", "{secretName: store-keys}", "{}", "spec.storage.credentials.secretName", "missing"),
    _on_cluster(
        "bucket before an IP address",
        "https://minio.example:9000\n    region: eu-central-1\n    addressing: Path",
        "http://10.0.0.7:9000\n    addressing: Virtual",
        "spec.storage.addressing",
        "numeric address",
    ),
    _on_cluster("relative mount path", "mountPath: /mnt/spare", "mountPath: scratch", MOUNT, "absolute path"),
    _on_cluster("mount path upwards", "mountPath: /mnt/spare", "mountPath: /mnt/../x", MOUNT, "without .."),
    _on_cluster("two volumes at one place", "/mnt/spare}", "/mnt/models}", "spec.trainer.volumes", "over each other"),
    _on_cluster("volume in a volume", "/mnt/spare}", "/mnt/models/a}", "spec.trainer.volumes", "over each other"),
    _on_cluster(
        "wrong path over another", "mountPath: /mnt/spare", "mountPath: /mnt/models/", MOUNT, "slash at the end"
    ),
    _on_cluster(
        "shards on a wrong path that is read only",
        "mountPath: /mnt/scratch",
        'mountPath: "", readOnly: Always',
        SCRATCH,
        "is empty",
    ),
    _on_cluster("volume at no absolute path", "mountPath: /mnt/scratch", "mountPath: mnt", SCRATCH, "absolute path"),
    _on_cluster("volume over the cache", "mountPath: /mnt/spare", "mountPath: /cache", MOUNT, "use /cache"),
    _on_cluster("volume over our folder", "mountPath: /mnt/spare", "mountPath: /run", MOUNT, "use /run/unimrg"),
    _on_cluster("volume in shared memory", "mountPath: /mnt/spare", "mountPath: /dev/shm", MOUNT, "use /dev"),
    _on_cluster(
        "read only as a bool", "readOnly: Always", "readOnly: true", "spec.trainer.volumes[0].readOnly", "Never"
    ),
    _on_cluster(
        "images in a store", "file:///mnt/models/ph", "s3://bucket/ph", "spec.data.sources[1].images.uri", "folder"
    ),
    _on_cluster(
        "shortest pause too long",
        "backoffSeconds: 5,",
        "backoffSeconds: 61,",
        "spec.runPolicy.maxBackoffSeconds",
        "at least 61",
    ),
    _on_cluster("endless restarts", "maxRestarts: 2", "maxRestarts: -1", "spec.runPolicy.maxRestarts", "at least 0"),
    _on_cluster("label with spaces", "  name: g", "  labels: {team: a b}\n  name: g", "metadata.labels", "team"),
    _on_cluster("label's name", "  name: g", "  labels: {a/b/c: d}\n  name: g", "metadata.labels", "'a/b/c'"),
    _on_cluster(
        "annotation's name", "  name: g", "  annotations: {a b: c}\n  name: g", "metadata.annotations", "'a b'"
    ),
]

FOR_A_CLUSTER = [
    _on_cluster("weights on this machine", "/mnt/models/harmon", "/home/me/harmon", INIT, "below a volume's mountPath"),
    _on_cluster("relative weights", "file:///mnt/models/harmon", "file://harmon", INIT, "is absolute", "s3://"),
    _on_cluster("weights beside a volume", "/mnt/models/harmon", "/mnt/models2", INIT, "PersistentVolumeClaim"),
    _on_cluster("weights above a volume", "/mnt/models/harmon", "/mnt/models/../x", INIT, "without .."),
    _on_cluster("dots in disguise", "/mnt/models/harmon", "/mnt/models/a%2F%2E.%2fx", INIT, "without .."),
    _on_cluster("images here", "/mnt/models/ph", "/home/ph", "spec.data.sources", "is absolute"),
    _on_cluster("shards on this machine", "/mnt/scratch/shards", "/data", SHARDS, "below a volume's mountPath"),
    _on_cluster("shards where nothing is written", "/mnt/scratch/shards", "/mnt/models/shards", SHARDS, "reading only"),
    _on_cluster("run on this machine", "s3://runs/good", "file://run", "spec.checkpoint.uri", "name a path on it"),
    _on_cluster(
        "run where nothing is written", "s3://runs/good", "file:///mnt/models", "spec.checkpoint.uri", "readOnly: Never"
    ),
    _on_cluster(
        "tracking in a file", "https://mlflow.example", "sqlite:///runs.db", "spec.tracking.mlflow.uri", "http://mlflow"
    ),
    _on_cluster("no tracking", 'uri: "https://mlflow.example", ', "", "spec.tracking.mlflow.uri", "tracking server"),
    _on_cluster("more processes than cohorts", "cohortRows: 4,", "cohortRows: 8,", BATCH_ROWS, "128", "8 processes"),
    _on_cluster("processes that do not divide", "nodes: 2", "nodes: 3", BATCH_ROWS, "rowsPerObjective: 96"),
    _on_cluster("one cohort", "cohortRows: 4,", "cohortRows: 64,", BATCH_ROWS, "rowsPerObjective: 1024", "1 process"),
]
"""Jobs that are right on a laptop and that a cluster refuses."""
