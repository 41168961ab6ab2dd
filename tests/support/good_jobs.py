"""Jobs that are right: one for a laptop and one for a cluster with nearly every field, and the smallest."""

from __future__ import annotations

from typing import Any

GOOD_JOB = """\
apiVersion: training.unimrg.dev/v1alpha1
kind: UniMRGJob
metadata:
  name: good
spec:
  model:
    harmon: {variant: Tiny, dropout: "0.1", maskRate: {mean: "1", minimum: "0.70"}, sampling: {guidance: "2.0"}}
  method: UniMRG
  objectives:
    - {name: Understanding, weight: "1"}
    - {name: Depth, weight: "0.5"}
  training:
    batch: {rowsPerObjective: 16, cohortRows: 8, microBatchRows: 4, imageSharing: All}
    optimizer: {learningRate: "1e-3", weightDecay: "0.02"}
    schedule: {kind: Cosine, warmupSteps: 5, totalSteps: 50}
    parts: [{name: LanguageModel, learningRateScale: "0.75"}]
    guard: {skipBudget: 3, spikeThreshold: "6", spikeWindow: 64}
    stopStep: 40
    precision: FP32
    composition: Official
    recompute: Nothing
    seed: 42
    prompts: Listed
    earlyStop: {everySteps: 40, patience: 2}
  trainer:
    nodes: 1
    gpusPerNode: 0
    processesPerNode: 2
    strategy: ZeRO1
    compile: Never
    diagnostics: {gradientNormsEvery: 5, profileStep: 4, deterministic: Never}
  data:
    sources:
      - scenes: {train: 100, heldOut: 10, imageSize: 48, seed: 7}
    shards: [file://data]
    imageEncoding: Online
  checkpoint:
    uri: file://run
    everySteps: 10
    keepLast: 3
    resume: IfPresent
    graceSeconds: 60
  tracking:
    mlflow: {experiment: tests}
  stages:
    train: {mode: Always}
    evaluate: {mode: OnSuccess, checkpoints: Kept, benchmarks: [spatial: {questions: 8}]}
  runPolicy: {stallTimeoutSeconds: 120}
"""
"""Every field but the optional URIs and what is for a cluster only; it is valid."""

GOOD_CLUSTER_JOB = """\
apiVersion: training.unimrg.dev/v1alpha1
kind: UniMRGJob
metadata:
  name: good-on-a-cluster
spec:
  model: {harmon: {variant: 0.5B}, init: file:///mnt/models/harmon, assets: file:///mnt/models/assets}
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
      - folder: {uri: file:///mnt/models/own, heldOut: 5, licence: CC0-1.0}
      - llava:
          annotations: file:///mnt/models/llava.json
          images: file:///mnt/models/coco
          maps: {depth: file:///mnt/models/depth, segmentation: file:///mnt/models/contours}
          heldOut: 7
    maps:
      depth:
        depthAnything:
          weights: file:///mnt/models/v2
          sha256: "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
      segmentation:
        sam: {weights: "hf://facebook/sam@1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e", pointsPerSide: 16, style: Regions}
    preparation: {pods: 2, processes: 8, maxBadFraction: "0.02"}
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
  stages:
    evaluate:
      suite: Paper
      files: file:///mnt/models/benchmarks
      benchmarks:
        - mmvp: {limit: 20, ruleSet: Vk202606, anyFile: true}
        - tsv: {file: file:///mnt/models/table.tsv, kind: YesNo, ruleSet: Vk0020}
        - genEval: {imagesPerPrompt: 12, detector: file:///mnt/models/mask2former, colours: file:///mnt/models/clip}
        - dpgBench: {judge: file:///mnt/models/judge, referenceCompat: true}
        - outOfDomainDepth: {images: file:///mnt/models/drawings, weights: file:///mnt/models/small-depth, limit: 8}
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
