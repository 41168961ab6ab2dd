"""The corpus of bad jobs, one table: each is a good job (`good_jobs.py`) with one change, and where it is wrong.

Two runners hold every reader to it: tests/api/test_bad_jobs.py (the command line's and the operator's reading) and
tests/cluster/test_bad_jobs_at_the_server.py (the API server's).
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

from tests.support.good_jobs import GOOD_CLUSTER_JOB, GOOD_JOB
from unimrg_api.spec_benchmarks import READS_FILES


@dataclass(frozen=True)
class BadJob:
    """`old` in the job `base` becomes `new`; then exactly `path` is wrong.

    `server_sees` tells whether an API server gets to see what is wrong: NaN, tags and doubles do not survive the way
    through JSON, and a null at a field that may be absent is taken out before anything is checked.
    """

    path: str
    old: str
    new: str
    server_sees: bool = True
    base: str = GOOD_JOB

    @property
    def name(self) -> str:
        return f"{self.path}={self.new.strip()[-40:] or self.old.strip()}"

    @property
    def text(self) -> str:
        assert self.base.count(self.old) == 1, f"{self.name}: {self.old!r} is not in the good job exactly once"
        return self.base.replace(self.old, self.new)


def bad(path: str, old: str, *new: str, server_sees: bool = True, base: str = GOOD_JOB) -> list[BadJob]:
    """Return a bad job for each text that `old` is replaced by."""
    return [BadJob(path, old, text, server_sees, base) for text in new]


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


HARMON, MODEL = "spec.model.harmon", GOOD_JOB[GOOD_JOB.index("model:") : GOOD_JOB.index("\n  method:")]
CUSTOM = "spec.model.custom"
GOOD_HARMON = (
    'harmon: {variant: Tiny, dropout: "0.1", maskRate: {mean: "1", minimum: "0.70"}, sampling: {guidance: "2.0"}}'
)
GOOD_MODEL = "harmon: {variant: 0.5B}, init: file:///mnt/models/harmon, assets: file:///mnt/models/assets}\n  training:"
MODEL_WITH_ENCODER = """{}: {{variant: Tiny}}}}
  training:
    parts: [{{name: Encoder, learningRateScale: "0"}}]"""


def freezing(model: str, method: str, *parts: str) -> str:
    """Return what takes the place of GOOD_MODEL: a job with this model and method that freezes these parts."""
    entries = ", ".join(f'{{name: {part}, learningRateScale: "0.0"}}' for part in parts)
    return f"{model}}}\n  method: {method}\n  training:\n    parts: [{entries}]"


HARMON_PARTS = ("LanguageModel", "Encoder", "Projectors", "Decoder", "DiffusionHead")
OPENUNI_PARTS = ("LanguageModel", "Queries", "Connector", "DiffusionTransformer")
ALL_FROZEN = [
    freezing("harmon: {variant: 0.5B}", "UniMRG", *HARMON_PARTS),
    freezing("harmon: {variant: Tiny}", "SFT", *HARMON_PARTS[:3]),
    freezing("openuni: {variant: Tiny}", "UniMRG", *OPENUNI_PARTS),
    freezing("openuni: {variant: L-512}", "SFT", "LanguageModel"),
    freezing("openuni: {variant: L-512}", "RecA", *OPENUNI_PARTS[1:]),
    freezing("showo: {variant: Tiny}", "UniMRG", "LanguageModel", "Projector"),
    freezing("showo: {variant: VQ-256}", "SFT", "LanguageModel"),
]
"""Models whose objectives train nothing, in the place of GOOD_MODEL."""
TRAINING, BATCH, OPTIMIZER = "spec.training", "spec.training.batch", "spec.training.optimizer"
OBJECTIVES, DEPTH = "spec.objectives", '{name: Depth, weight: "0.5"}'
SOURCES, SCENES = "spec.data.sources", "      - scenes: {train: 100, heldOut: 10, imageSize: 48, seed: 7}"
ENCODING = "    shards: [file://data]\n    imageEncoding: "
ONLINE, READING = "    imageEncoding: Online", "spec.data.reading"
SELECTION, PATIENCE = f"{TRAINING}.earlyStop.benchmark", "patience: 2}"


def selecting(name: str, metric: str) -> str:
    """Return what takes the place of PATIENCE: an early stop by a benchmark's metric."""
    return f"patience: 2, benchmark: {{name: {name}, metric: {metric}}}}}"


_THEN = GOOD_JOB[GOOD_JOB.index(PATIENCE) : GOOD_JOB.index("ZeRO1")]
DIVIDED = [f"{_THEN}ZeRO1", *(_THEN.replace(PATIENCE, selecting("spatial", "acc")) + one for one in ("FSDP2", "ZeRO3"))]
"""An early stop and what follows, up to the strategy: of the good job, and with one that divides the weights."""
BENCHMARKS, SPATIAL = "spec.stages.evaluate.benchmarks", "[spatial: {questions: 8}]"
TRAINED = GOOD_JOB[GOOD_JOB.index("  data:") : GOOD_JOB.index("    evaluate:")]
UNTRAINED = TRAINED[TRAINED.index("  checkpoint:") :].replace("Always", "Never")
"""From the data to the training, and of a job without both."""
URI, RUN = "spec.checkpoint.uri", "uri: file://run"
MLFLOW, LABELS = "spec.tracking.mlflow", "metadata.labels"


READ_DIFFERENTLY = [
    *(
        case
        for text in ("052", "0o52", "0b101010", "0x2A", "4_2", "4_2.0", ".5", "5.", "7:30", "0_52", "+_5", "-0x1")
        for case in bad(f"{TRAINING}.seed", "seed: 42", f"seed: {text}", server_sees=False)
    ),
    *(
        case
        for text in ("y", "Yes", "NO", "n", "on", "OFF", "2026-01-02", "0_1", "007")
        for case in (
            *bad(f"{LABELS}.a", "  name: good", f"  name: good\n  labels: {{a: {text}}}", server_sees=False),
            *bad(f"{LABELS}.{text}", "  name: good", f"  name: good\n  labels: {{{text}: a}}", server_sees=False),
        )
    ),
    *bad(f"{LABELS}.1", "  name: good", "  name: good\n  labels: {1: a}", server_sees=False),
    *bad(f"{LABELS}.true", "  name: good", "  name: good\n  labels: {true: a}", server_sees=False),
    *bad(f"{LABELS}.~", "  name: good", "  name: good\n  labels: {~: a}", server_sees=False),
    *bad(f"{LABELS}.a", "  name: good", "  name: good\n  labels: {a: !!str 1}", server_sees=False),
    *bad(f"{LABELS}.a", "  name: good", "  name: good\n  labels: {a: ~}", server_sees=False),
    *bad("", "apiVersion:", "%YAML 1.1\n---\napiVersion:", "# a\x85b: c\napiVersion:", server_sees=False),
    *bad("", "\nkind:", "\n# a\u2028seed: 1\nkind:", "\n# a\u2029seed: 1\nkind:", server_sees=False),
    *bad("spec.checkpoint.uri", "    keepLast: 3", "    uri: file://b", server_sees=False),
    *bad("spec.checkpoint.<<", "    keepLast: 3", "    <<: {keepLast: 3}", server_sees=False),
    *bad(
        f"{TRAINING}.seed",
        "seed: 42",
        "seed: !secret 42",
        'seed: !!int "42"',
        "seed: ! 42",
        "seed: &a ! 42",
        server_sees=False,
    ),
    *bad(f"{TRAINING}.seed", "seed: 42", "seed: null", "seed:", "seed: .nan", server_sees=False),
    *bad(f"{TRAINING}.stopStep", "stopStep: 40", "stopStep: ~", server_sees=False),
    *bad(f"{OBJECTIVES}[1].weight", '"0.5"', ".nan", server_sees=False),
]
"""What YAML 1.1, which kubectl reads, and YAML 1.2 read differently, or what is lost on the way to an API server."""

BAD_JOBS = [
    *READ_DIFFERENTLY,
    # fields
    *bad(f"{BATCH}.microBatchRow", "microBatchRows:", "microBatchRow:"),
    *bad("spec.checkpoint.keeplast", "keepLast:", "keeplast:"),
    *bad("spec.zebra", "method: UniMRG", "zebra: 1"),
    *bad("spec.checkpoint.uri", f"    {RUN}\n", ""),
    *bad("metadata.name", "  name: good", "  labels: {}", f"  name: {'a' * 41}", "  name: My Job", "  name: 12"),
    *bad("apiVersion", "/v1alpha1", "/v1"),
    *bad("kind", "kind: UniMRGJob", "kind: PyTorchJob"),
    # unions
    *bad("spec.model.harmony", "harmon:", "harmony:"),
    *bad("spec.model", MODEL, "model: {}", MODEL + "\n    custom: {name: toy}"),
    *bad(f"{CUSTOM}.name", MODEL, "model: {custom: {name: 1st}}", "model: {custom: {}}"),
    *bad(f"{CUSTOM}.settings", MODEL, "model: {custom: {name: a, settings: 1}}"),
    *bad(f"{CUSTOM}.settings", MODEL, "model: {custom: {name: a, settings: {x: [.nan]}}}", server_sees=False),
    *bad(f"{CUSTOM}.settings", MODEL, f"model: {{custom: {{name: a, settings: {{x: {2**63}}}}}}}", server_sees=False),
    *bad(f"{OBJECTIVES}[1]", "{name: Depth,", "{name: Depth, custom: a,", "{"),
    *bad(f"{BENCHMARKS}[0].mmBench", SPATIAL, "[mmBench: {}]"),
    *bad(f"{BENCHMARKS}[0].tsv.file", SPATIAL, "[tsv: {kind: YesNo}]", "[tsv: {kind: YesNo, file: a.tsv}]"),
    *bad(
        f"{BENCHMARKS}[0].tsv.kind", SPATIAL, "[tsv: {file: file://a.tsv}]", "[tsv: {file: file://a.tsv, kind: Free}]"
    ),
    *bad(f"{BENCHMARKS}[0]", SPATIAL, "[{}]", "[{spatial: {}, custom: {name: toy}}]"),
    *bad(f"{BENCHMARKS}[0].generatedMaps.images", SPATIAL, *(f"[generatedMaps: {{images: {n}}}]" for n in (0, 1025))),
    *bad(f"{BENCHMARKS}[0].generatedMaps.maps", SPATIAL, "[generatedMaps: {maps: [depth]}]"),
    *bad(f"{SOURCES}[0]", SCENES, "      - {}"),
    # whole numbers
    *bad(f"{BATCH}.rowsPerObjective", "rowsPerObjective: 16", "rowsPerObjective: -16"),
    *bad("spec.trainer.nodes", "nodes: 1", *(f"nodes: {new}" for new in ("0", "65", "two", "2.5", "true", '"1"'))),
    *bad(f"{TRAINING}.seed", "seed: 42", "seed: 99999999999999999999", "seed: -1"),
    *bad("spec.checkpoint.graceSeconds", "graceSeconds: 60", "graceSeconds: 5"),
    *bad("spec.checkpoint.keepEvery", "keepLast: 3", "keepEvery: 0"),
    *bad("spec.suspend", "method: UniMRG", 'suspend: "true"', "suspend: 1"),
    # decimal strings
    *bad(f"{OBJECTIVES}[1].weight", '"0.5"', *('"NaN"', '"inf"', '"-0.5"', '"5e-1"', "0.5", "2", "[1]")),
    *bad(f"{OPTIMIZER}.learningRate", '"1e-3"', "1e-3", '"0"', '"1e99"', '"1000"'),
    *bad(f"{OPTIMIZER}.weightDecay", '"0.02"', '"1e3"', '"-0.02"'),
    *bad(f"{HARMON}.dropout", 'dropout: "0.1"', 'dropout: "1"'),
    *bad(f"{HARMON}.maskRate.mean", 'mean: "1"', 'mean: "1.5"', 'mean: "1.01"', 'mean: "-0.1"', "mean: 1"),
    *bad(f"{HARMON}.maskRate.deviation", 'mean: "1"', 'deviation: "0"', 'deviation: "1e3"'),
    *bad(f"{HARMON}.maskRate.minimum", 'minimum: "0.70"', 'minimum: "1"', 'minimum: "-1"', "minimum: 0.7"),
    # choices
    *bad(f"{HARMON}.variant", "variant: Tiny", "variant: ~", "variant: 7B", "variant: 0.5"),
    *bad(f"{HARMON}.variant", "variant: Tiny, ", ""),
    *bad(f"{OBJECTIVES}[1].name", "name: Depth", "name: Normals", "name: depht"),
    *bad("spec.method", "method: UniMRG", "method: unimrg"),
    *bad(f"{TRAINING}.precision", "precision: FP32", "precision: FP8", "precision: FP16"),
    *bad(f"{TRAINING}.prompts", "prompts: Listed", "prompts: listed", "prompts: [Listed]"),
    *bad("spec.checkpoint.resume", "resume: IfPresent", "resume: true"),
    # texts
    *bad(f"{MLFLOW}.experiment", "experiment: tests", 'experiment: ""'),
    *bad(f"{MLFLOW}.uri", "experiment: tests", 'uri: "https://me:hunter2@mlflow"', "uri: file:///runs"),
    *bad("spec.image", "method: UniMRG", "image: a b"),
    *bad(URI, RUN, *(f"uri: {uri}" for uri in ("file://a%00b", '"file://a\\0b"', f"file://{'a' * 256}/b"))),
    *bad(URI, RUN, "uri: file://~/run", "uri: file://localhost/run"),
    *bad("spec.data.shards[0]", "[file://data]", f"[s3://bucket/{'ü' * 128}]"),
    *bad(URI, RUN, *(f'uri: "s3://bucket/{key}"' for key in ("a//b", "/a", "./a", "a/../b", "a/..", "a\\\\b"))),
    *bad(URI, RUN, *(f'uri: "s3://bucket/{key}"' for key in ("a\\x7fb", "a b", "/".join(["ü" * 120] * 5)))),
    *bad(URI, RUN, *(f"uri: {uri}" for uri in ("/runs/x", "s3:/bucket/x", "s3://bucket", "s3://Bucket/x", "hf://a/b"))),
    # shapes
    *bad(f"{TRAINING}.schedule", "{kind: Cosine, warmupSteps: 5, totalSteps: 50}", "[5, 50]"),
    *bad(f"{TRAINING}.schedule.kind", "kind: Cosine", "kind: cosine", "kind: Linear"),
    *bad(f"{TRAINING}.parts", "[{name: LanguageModel", "[{name: languageModel", "[{name: Connector"),
    *bad(f"{TRAINING}.parts", "parts: [", 'parts: [{name: LanguageModel, learningRateScale: "0"}, '),
    *bad(f"{TRAINING}.parts[0].learningRateScale", 'learningRateScale: "0.75"', "learningRateScale: 0.5"),
    *bad(f"{TRAINING}.guard.skipBudget", "skipBudget: 3", "skipBudget: -1"),
    *bad(f"{TRAINING}.guard.spikeThreshold", 'spikeThreshold: "6"', 'spikeThreshold: "0"', "spikeThreshold: 6"),
    *bad(f"{TRAINING}.guard.spikeWindow", "spikeWindow: 64", "spikeWindow: 7"),
    *bad(f"{TRAINING}.earlyStop.everySteps", "{everySteps: 40", "{everySteps: 25", "{everySteps: 0"),
    *bad(f"{SELECTION}.metric", PATIENCE, *(selecting("spatial", metric) for metric in ('""', '"a=b"'))),
    *bad(f"{SELECTION}.name", PATIENCE, *(selecting(name, "acc") for name in ("mmvp", "1st"))),
    *bad(SELECTION, DIVIDED[0], *DIVIDED[1:]),
    *bad("spec.stages.train.mode", "{mode: Always}", "{mode: OnSuccess}"),
    *bad(
        "spec.stages.evaluate.mode",
        "{mode: Always}\n    evaluate: {mode: OnSuccess",
        "{mode: Never}\n    evaluate: {mode: Never",
    ),
    *bad(BENCHMARKS, TRAINED, UNTRAINED),
    *bad("spec.stages.evaluate.checkpoints", "checkpoints: Kept", "checkpoints: All"),
    *bad("spec.stages.evaluate.suite", "checkpoints: Kept", "suite: quick"),
    *bad("spec.stages.evaluate.files", "checkpoints: Kept", "suite: Quick"),
    *bad("spec.stages.evaluate.files", SPATIAL, *(f"[spatial: {{}}, {name}: {{}}]" for name in READS_FILES)),
    *bad(f"{TRAINING}.earlyStop.patience", "patience: 2", "patience: 0"),
    *bad("spec.trainer.compile", "compile: Never", "compile: never", "compile: true"),
    *bad("spec.trainer.diagnostics.gradientNormsEvery", "gradientNormsEvery: 5", "gradientNormsEvery: 0"),
    *bad("spec.trainer.diagnostics.profileStep", "profileStep: 4", "profileStep: 0", "profileStep: 39"),
    *bad("spec.trainer.diagnostics.deterministic", "deterministic: Never", "deterministic: false"),
    *bad("spec.data.shards", "    shards: [file://data]\n", ""),
    *bad("spec.data.shards", "[file://data]", "file://data", "[]", f"[{', '.join(f'file://{n}' for n in range(17))}]"),
    *bad("spec.data.weights", ONLINE, f"{ONLINE}\n    weights: []"),
    *bad("spec.data.weights[0]", ONLINE, f"{ONLINE}\n    weights: [1]", f'{ONLINE}\n    weights: ["-1"]'),
    *bad(
        f"{READING}.patienceSeconds", ONLINE, *(f"{ONLINE}\n    reading: {{patienceSeconds: {n}}}" for n in (-1, 86401))
    ),
    *bad(f"{READING}.cacheGiB", ONLINE, *(f"{ONLINE}\n    reading: {{cacheGiB: {n}}}" for n in (-1, "1Gi"))),
    *bad(
        f"{READING}.maxSubstitutedFraction",
        ONLINE,
        *(f"{ONLINE}\n    reading: {{maxSubstitutedFraction: {text}}}" for text in ("0.01", '"1.1"')),
    ),
    # rules between fields
    *bad(f"{BATCH}.rowsPerObjective", "cohortRows: 8", "cohortRows: 5"),
    *bad(f"{TRAINING}.schedule.warmupSteps", "warmupSteps: 5", "warmupSteps: 51"),
    *bad(f"{TRAINING}.stopStep", "stopStep: 40", "stopStep: 51"),
    *bad(f"{TRAINING}.composition", "composition: Official", "composition: PackedFlex", "composition: packed"),
    *bad("spec.trainer.strategy", "strategy: ZeRO1", "strategy: FSDP", "strategy: zero1"),
    *bad("spec.trainer.strategy", "precision: FP32", "precision: FP64"),
    *bad(f"{TRAINING}.recompute", "recompute: Nothing", "recompute: Off", "recompute: true"),
    *bad(f"{BATCH}.imageSharing", "imageSharing: All", "imageSharing: all"),
    *bad(f"{BATCH}.imageSharing", GOOD_HARMON, "showo: {variant: Tiny}", "openuni: {variant: Tiny}"),
    *bad(OBJECTIVES, DEPTH, '{name: Understanding, weight: "1"}', '{name: Depth, weight: "0.0"}'),
    *bad(OBJECTIVES, DEPTH, DEPTH + '\n    - {custom: a, weight: "1"}\n    - {custom: a, weight: "2"}'),
    *bad(OBJECTIVES, f"    - {DEPTH}\n", ""),
    *bad(OBJECTIVES, "method: UniMRG", "method: SFT", "method: RecA"),
    *bad(OBJECTIVES, f'"1"}}\n    - {DEPTH}', '"0"}\n    - {name: Depth, weight: "0"}'),
    *bad(BENCHMARKS, SPATIAL, "[spatial: {}, spatial: {questions: 8}]", "[spatial: {}, custom: {name: spatial}]"),
    *bad(BENCHMARKS, SPATIAL, "[generatedMaps: {}, spatial: {}, generatedMaps: {images: 8}]"),
    *bad("spec.data.imageEncoding", "imageEncoding: Online", "imageEncoding: online"),
    *bad("spec.data.weights", ONLINE, *(f"{ONLINE}\n    weights: {text}" for text in ('["1", "2"]', '["0.0"]'))),
    *bad("spec.data.shards", f"{ENCODING}Online", f"{ENCODING}Prepared".replace("data]", "data, file://more]")),
    *bad("spec.data.shards", "[file://data]", "[file://data, file://more, file://data]"),
    *bad("spec.trainer.rdma", "compile: Never", "rdma: Always"),
    *bad("spec.data.imageEncoding", f"    sources:\n{SCENES}\n{ENCODING}Online", f"{ENCODING}Prepared"),
    *bad(SOURCES, SCENES, f"{SCENES}\n{SCENES}", "      - images: {uri: file:///a}"),
]


def _on_cluster(path: str, old: str, *new: str) -> list[BadJob]:
    return bad(path, old, *new, base=GOOD_CLUSTER_JOB)


ENDPOINT, ADDRESS = "spec.storage.endpoint", "https://minio.example:9000"
VOLUMES, SPARE, SCRATCH = "spec.trainer.volumes", "mountPath: /mnt/spare", "mountPath: /mnt/scratch"
INIT, SHARDS, WEIGHTS = "spec.model.init", "spec.data.shards", "/mnt/models/harmon"
MAPS, DEPTH_WEIGHTS, SAM = "spec.data.maps", "file:///mnt/models/v2", "sam: {weights"
GOOD_SAM = next(line for line in GOOD_CLUSTER_JOB.splitlines() if "  sam: " in line)
(GOOD_DEPTH,) = re.findall(r"      depth:\n(?:        .*\n)+", GOOD_CLUSTER_JOB)
GOOD_SOURCES, GOOD_MAPS = re.findall(r"    (?:sources|maps):\n(?:      .*\n)+", GOOD_CLUSTER_JOB)
DEPTH_ANYTHING, SEGMENTATION = f"{MAPS}.depth.depthAnything", f"{MAPS}.segmentation"

BAD_JOBS += [
    *_on_cluster(ENDPOINT, ADDRESS, "https://me:hunter2@minio", f"{ADDRESS}/bucket", "minio:9000", "https://a:65536"),
    *_on_cluster("spec.storage.region", "eu-central-1", "EU"),
    *_on_cluster("spec.storage.addressing", ": Path", ": path"),
    *_on_cluster("spec.storage.credentials.secretName", "store-keys", "Store_Keys"),
    *_on_cluster("spec.storage.credentials.secretName", "{secretName: store-keys}", "{}"),
    *_on_cluster(
        "spec.storage.addressing",
        f"{ADDRESS}\n    region: eu-central-1\n    addressing: Path",
        "http://10.0.0.7:9000\n    addressing: Virtual",
    ),
    *_on_cluster(f"{VOLUMES}[1].claimName", "scratch, ", "scr..atch, "),
    *_on_cluster(VOLUMES, "/mnt/spare}", "/mnt/models}", "/mnt/models/a}"),
    *_on_cluster(f"{VOLUMES}[2].mountPath", SPARE, *(f"mountPath: {path}" for path in ("scratch", "/mnt/../x"))),
    *_on_cluster(f"{VOLUMES}[2].mountPath", SPARE, *(f"mountPath: {path}" for path in ("/mnt/models/", "/cache"))),
    *_on_cluster(f"{VOLUMES}[2].mountPath", SPARE, *(f"mountPath: {path}" for path in ("/run", "/dev/shm"))),
    *_on_cluster(f"{VOLUMES}[1].mountPath", SCRATCH, 'mountPath: "", readOnly: Always', "mountPath: mnt"),
    *_on_cluster(f"{VOLUMES}[0].readOnly", "readOnly: Always", "readOnly: true"),
    *_on_cluster(
        f"{SOURCES}[0].photographs.heldOut", SCENES, *(f"      - photographs: {{heldOut: {n}}}" for n in (0, 9, "two"))
    ),
    *_on_cluster(
        f"{DEPTH_ANYTHING}.weights", DEPTH_WEIGHTS, "hf://a/b", f"hf://a@{'1e' * 20}", "s3://bucket", "/depth"
    ),
    *_on_cluster(f"{DEPTH_ANYTHING}.sha256", "0f" * 32, "0F" * 32, "0f" * 20),
    *_on_cluster(f"{MAPS}.depth", GOOD_DEPTH, "      depth: {}\n"),
    *_on_cluster(SEGMENTATION, SAM, "hed: {weights: file:///mnt/models/hed}\n        sam: {weights"),
    *_on_cluster(f"{SEGMENTATION}.sam.pointsPerSide", "pointsPerSide: 16", "pointsPerSide: 0", "pointsPerSide: 129"),
    *_on_cluster(f"{SEGMENTATION}.sam.style", "style: Regions", "style: regions"),
    *_on_cluster(MAPS, GOOD_MAPS, "    maps: {}\n"),
    *_on_cluster(MAPS, GOOD_SOURCES, ""),
    *_on_cluster(f"{SOURCES}[1].images.uri", "file:///mnt/models/ph", "s3://B/ph"),
    *_on_cluster(f"{SOURCES}[2].folder.heldOut", "heldOut: 5", "heldOut: 0"),
    *_on_cluster(f"{SOURCES}[2].folder.licence", "CC0-1.0", '" "'),
    *_on_cluster(f"{SOURCES}[3].llava.images", "          images: file:///mnt/models/coco\n", ""),
    *_on_cluster("spec.data.preparation.pods", "pods: 2", "pods: 0"),
    *_on_cluster("spec.data.preparation.processes", "processes: 8", "processes: 65"),
    *_on_cluster("spec.data.preparation.maxBadFraction", '"0.02"', '"1.5"', "0.02"),
    *_on_cluster(f"{TRAINING}.parts", GOOD_MODEL, *(MODEL_WITH_ENCODER.format(one) for one in ("openuni", "showo"))),
    *_on_cluster(f"{TRAINING}.parts", GOOD_MODEL, *ALL_FROZEN),
    *_on_cluster(f"{BENCHMARKS}[0].mmvp.limit", "limit: 20", "limit: 0", "limit: all"),
    *_on_cluster(f"{BENCHMARKS}[0].mmvp.ruleSet", "Vk202606", "vk-2026-06"),
    *_on_cluster(f"{BENCHMARKS}[0].mmvp.anyFile", "anyFile: true", "anyFile: Always"),
    *_on_cluster(f"{BENCHMARKS}[1].tsv.file", "file:///mnt/models/table.tsv", "hf://a/b", "s3://B/own.tsv"),
    *_on_cluster(f"{BENCHMARKS}[2].genEval.imagesPerPrompt", "imagesPerPrompt: 12", "imagesPerPrompt: 0"),
    *_on_cluster(f"{BENCHMARKS}[3].dpgBench.referenceCompat", "referenceCompat: true", 'referenceCompat: "true"'),
    *_on_cluster(f"{BENCHMARKS}[4].outOfDomainDepth.weights", ", weights: file:///mnt/models/small-depth", ""),
    *_on_cluster("spec.runPolicy.maxBackoffSeconds", "backoffSeconds: 5,", "backoffSeconds: 61,"),
    *_on_cluster("spec.backend", "  trainer:\n", "  backend: pytorchjob\n  trainer:\n"),
    *_on_cluster("spec.queue.name", "  trainer:\n", "  queue: {name: Team}\n  trainer:\n", "  queue: {}\n  trainer:\n"),
    *_on_cluster("spec.queue.priorityClass", "  trainer:\n", "  queue: {name: a, priorityClass: a.b}\n  trainer:\n"),
    *_on_cluster("spec.runPolicy.maxRestarts", "maxRestarts: 2", "maxRestarts: -1"),
    *_on_cluster("spec.runPolicy.activeDeadlineSeconds", "maxRestarts: 2", "activeDeadlineSeconds: 0"),
    *_on_cluster(LABELS, "  name: g", "  labels: {team: a b}\n  name: g", "  labels: {a/b/c: d}\n  name: g"),
    *_on_cluster("metadata.annotations", "  name: g", "  annotations: {a b: c}\n  name: g"),
]

FOR_A_CLUSTER = [
    *_on_cluster(INIT, WEIGHTS, "/home/me/harmon", "/mnt/models2", "/mnt/models/../x", "/mnt/models/a%2F%2E.%2fx"),
    *_on_cluster(INIT, f"file://{WEIGHTS}", "file://harmon"),
    *_on_cluster("spec.model.assets", "/mnt/models/assets", "/home/me/assets", "/mnt/models2", "/mnt/models/../x"),
    *_on_cluster(SOURCES, "/mnt/models/ph", "/home/ph"),
    *_on_cluster(f"{DEPTH_ANYTHING}.weights", "/mnt/models/v2", "/home/me/depth", "/mnt/models/../x"),
    *_on_cluster(f"{SEGMENTATION}.sam.weights", "hf://facebook/sam@" + "1e" * 20, "file:///home/me/sam"),
    *_on_cluster(f"{SEGMENTATION}.hed.weights", GOOD_SAM, "        hed: {weights: file:///home/me/hed}"),
    *_on_cluster(SOURCES, "/mnt/models/own", "/home/own"),
    *_on_cluster(SOURCES, "folder: {uri: file:///mnt/models", "webDataset: {uri: file:///home"),
    *(
        case
        for place in ("llava.json", "coco", "depth", "contours")
        for case in _on_cluster(SOURCES, f"/mnt/models/{place}", f"/home/{place}")
    ),
    *(
        case
        for place in ("table.tsv", "mask2former", "clip", "judge", "drawings", "small-depth")
        for case in _on_cluster(BENCHMARKS, f"/mnt/models/{place}", f"/home/{place}")
    ),
    *_on_cluster("spec.stages.evaluate.files", "/mnt/models/benchmarks", "/home/benchmarks"),
    *_on_cluster(SHARDS, "/mnt/scratch/shards", "/data", "/mnt/models/shards"),
    *_on_cluster(URI, "s3://runs/good", "file://run", "file:///mnt/models"),
    *_on_cluster(f"{MLFLOW}.uri", "https://mlflow.example", "sqlite:///runs.db"),
    *_on_cluster(f"{MLFLOW}.uri", 'uri: "https://mlflow.example", ', ""),
    *_on_cluster(f"{BATCH}.rowsPerObjective", "cohortRows: 4,", "cohortRows: 8,", "cohortRows: 64,"),
    *_on_cluster(f"{BATCH}.rowsPerObjective", "nodes: 2", "nodes: 3"),
]
"""Jobs that are right on a laptop and that a cluster refuses."""
