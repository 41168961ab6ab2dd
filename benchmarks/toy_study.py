"""Does generating maps help a tiny model to answer questions? The study that docs/toy_study.md registered beforehand.

python benchmarks/toy_study.py [--quick] [--folder runs/toy-study] [--seeds 8] [--ablation-seeds 3] [--processes 2]

Every run is a job made from examples/quickstart.yaml: the same base, data, steps and order for all arms of a seed. A
run that has its results is not repeated, one that was interrupted is resumed; so the command may be stopped and given
again.
`--quick` shows that the pipeline works: one seed, two arms, a few steps. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from unimrg_api.yaml_source import read_yaml

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
FIRST_SEED = 100
QUESTIONS = 2048

MAPS = ("Pixel", "Depth", "Segmentation")


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str
    objectives: tuple[str, ...]
    factor: int = 1
    """Rows per step, times those of the quick start."""

    @property
    def method(self) -> str:
        return "SFT" if len(self.objectives) == 1 else "RecA" if set(self.objectives[1:]) == {"Pixel"} else "UniMRG"


SFT = Arm("sft", ("Understanding",))
UNIMRG = Arm("unimrg", ("Understanding", *MAPS))
MAIN = (SFT, Arm("reca", ("Understanding", "Pixel")), UNIMRG, Arm("sft-compute", ("Understanding",), factor=4))
ABLATIONS = tuple(
    Arm(f"without-{left_out.lower()}", ("Understanding", *(name for name in MAPS if name != left_out)))
    for left_out in MAPS
)


def job_of(arm: Arm, seed: int, folder: Path, quick: bool) -> dict[str, Any]:
    """The quick start's job with an arm's objectives and a seed."""
    job: dict[str, Any] = read_yaml((EXAMPLES / "quickstart.yaml").read_bytes()).value
    spec = job["spec"]
    job["metadata"]["name"] = f"study-{arm.name}-{seed}"
    if "init" in spec["model"]:
        spec["model"]["init"] = (EXAMPLES / spec["model"]["init"].removeprefix("file://")).as_uri()
    spec["method"] = arm.method
    spec["objectives"] = [{"name": name, "weight": "1"} for name in arm.objectives]
    training = spec["training"]
    training["seed"] = seed
    for name in ("rowsPerObjective", "microBatchRows"):
        training["batch"][name] *= arm.factor
    spec["data"] = {
        "sources": [source for source in spec["data"]["sources"] if "scenes" in source],
        "shards": [(folder / "data").as_uri()],
    }
    spec["checkpoint"] = {"uri": (folder / job["metadata"]["name"]).as_uri(), "everySteps": 200, "keepLast": 1}
    spec["tracking"] = {"mlflow": {"experiment": "toy-study"}}
    spec["stages"] = {
        "evaluate": {
            "mode": "OnSuccess",
            "benchmarks": [{"spatial": {"questions": 32 if quick else QUESTIONS}}],
            "heldOutRows": 8,
            "sampleImages": 1,
        }
    }
    if quick:
        training["schedule"] = {"warmupSteps": 1, "totalSteps": 4}
        spec["data"]["sources"][0]["scenes"] |= {"train": 32, "heldOut": 8}
    return job


def score_of(arm: Arm, seed: int, folder: Path, processes: int, quick: bool) -> float:
    """Share of questions answered right, in %, after training the arm, unless that was done before."""
    job = job_of(arm, seed, folder, quick)
    name = job["metadata"]["name"]
    summary = folder / name / "results" / "summary.json"
    if not summary.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps(job, indent=2))
        command = [sys.executable, "-m", "unimrg_cli.main", "run", str(path), "--processes", str(processes)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise SystemExit(f"{name} failed with {done.returncode}:\n{done.stdout[-4000:]}")
    metrics = json.loads(summary.read_text())["benchmarks"]["spatial"]["metrics"]
    score = float(metrics["acc"])
    print(f"{name}: {score:.1f} %", flush=True)
    return score


def paired(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """Mean difference over seeds with its 95 % t interval; no interval for a single seed."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return {"mean": round(mean, 2), "interval": None, "differences": [round(d, 2) for d in differences]}
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return {
        "mean": round(mean, 2),
        "interval": [round(mean - half, 2), round(mean + half, 2)],
        "differences": [round(d, 2) for d in differences],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/toy-study"))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--ablation-seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    folder = options.folder.resolve() / ("quick" if options.quick else "full")
    seeds = range(FIRST_SEED, FIRST_SEED + (1 if options.quick else options.seeds))
    arms = (SFT, UNIMRG) if options.quick else MAIN
    # seed by seed, so that an interrupted study has whole pairs
    scores: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for seed in seeds:
        for arm in arms:
            scores[arm.name].append(score_of(arm, seed, folder, options.processes, options.quick))
    for arm in () if options.quick else ABLATIONS:
        scores[arm.name] = [
            score_of(arm, seed, folder, options.processes, options.quick) for seed in seeds[: options.ablation_seeds]
        ]
    primary = paired(scores[UNIMRG.name], scores[SFT.name])
    others = {
        f"unimrg - {name}": paired(scores[UNIMRG.name][: len(found)], found)
        for name, found in scores.items()
        if name not in (UNIMRG.name, SFT.name)
    }
    interval = primary["interval"]
    print(
        json.dumps(
            {
                "name": "toy_study",
                "figures": {"scores": scores, "unimrg - sft": primary, **others},
                "ratio": round(
                    statistics.fmean(scores[UNIMRG.name]) / max(1e-9, statistics.fmean(scores[SFT.name])), 3
                ),
                "target": "the 95 % interval of unimrg - sft lies above 0",
                "holds": bool(interval and interval[0] > 0),
                "machine": f"{os.cpu_count()} x {platform.machine()}",
            }
        )
    )


if __name__ == "__main__":
    main()
