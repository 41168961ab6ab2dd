"""Made-up runs with results: folders as a job leaves them, with items of benchmarks at their real sizes.

Whether an item is right depends on its own difficulty and on the run's skill, so that runs agree about most items, as
models of one family do.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unimrg_cli.report_runs import StoredRun
from unimrg_trainer.evaluation.reports.runs import EvaluatedRun, read_run
from unimrg_trainer.evaluation.result import BenchmarkResult, ItemScore, Table
from unimrg_trainer.evaluation.summary import Summary
from unimrg_trainer.storage import LocalStore

DATE = "2026-11-30"
"""Of reports that are made of these runs."""
OBJECTIVES = {
    "SFT": ("Understanding",),
    "RecA": ("Understanding", "Pixel"),
    "UniMRG": ("Understanding", "Pixel", "Depth", "Segmentation"),
}
PROVENANCE = {"rule_set": "Vk0020", "data_md5": "8cb732b141a0", "prompt_sha256": "0f3a5b", "judge": "none"}

Draw = Callable[[int], float]
"""Number of the item → score 0…1."""


def mmbench(draw: Draw) -> Iterator[ItemScore]:
    """1164 questions of 20 categories, in 4329 rotations."""
    number = 0
    for question in range(1164):
        options = 3 if question % 1164 < 327 else 4
        right = [draw(number + rotation) for rotation in range(options)]
        for rotation in range(options):
            scores = {"acc_vanilla_all": right[rotation]}
            if not rotation:
                scores |= {"acc_circular": float(all(right)), "acc_vanilla_0": right[0]}
            texts = {
                "question": f"Question {question}: what is shown?",
                "truth": "A",
                "prediction": "A" if right[rotation] else "B",
            }
            yield ItemScore(
                f"{question + rotation * 10**6:07d}",
                f"{question:04d}",
                f"category {question % 20:02d}",
                scores,
                **texts,
            )
        number += options


def mmvp(draw: Draw) -> Iterator[ItemScore]:
    """300 questions in 150 pairs."""
    for pair in range(150):
        right = draw(2 * pair), draw(2 * pair + 1)
        for side in range(2):
            scores = {"acc_question": right[side], **({"acc_pair": right[0] * right[1]} if not side else {})}
            answer = "a" if right[side] else "b"
            question = f"Is the dog in picture {pair} facing left & <right>?"
            yield ItemScore(f"{2 * pair + side:03d}", f"{pair:03d}", "", scores, question, "(a)", f"({answer})", answer)


def plain(metric: str, rows: int, per_cluster: int, categories: int) -> Callable[[Draw], Iterator[ItemScore]]:
    """A benchmark of one metric."""

    def items(draw: Draw) -> Iterator[ItemScore]:
        for row in range(rows):
            category = f"kind {row // per_cluster % categories}" if categories else ""
            right = draw(row)
            answer = "Yes" if right else "No"
            yield ItemScore(
                f"{row:04d}",
                f"{row // per_cluster:04d}",
                category,
                {metric: right},
                f"Statement {row}?",
                "Yes",
                answer,
                answer,
            )

    return items


def geneval(draw: Draw) -> Iterator[ItemScore]:
    """553 prompts of 6 kinds with 4 images each; the score is the mean of the kinds."""
    sizes = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
    number = 0
    for tag, prompts in sizes.items():
        for prompt in range(prompts):
            for image in range(4):
                name = f"{tag}-{prompt:03d}/{image}"
                score = draw(number)
                yield ItemScore(
                    name,
                    f"{tag}-{prompt:03d}",
                    tag,
                    {"overall": score},
                    f"a photo of {tag} {prompt}",
                    "",
                    f"{name}.png",
                )
                number += 1


def dpg(draw: Draw) -> Iterator[ItemScore]:
    """1065 prompts whose score is a fraction."""
    for prompt in range(1065):
        score = (draw(prompt) + draw(prompt + 2000) + 2) / 4
        yield ItemScore(f"{prompt:04d}", f"{prompt:04d}", "", {"dpg_blip": score}, f"a long prompt {prompt}")


BENCHMARKS: dict[str, tuple[Callable[[Draw], Iterator[ItemScore]], tuple[str, ...]]] = {
    "mmbench": (mmbench, ("acc_circular", "acc_vanilla_all")),
    "mmvp": (mmvp, ("acc_question", "acc_pair")),
    "hallusionBench": (plain("aacc", 951, 3, 9), ("aacc",)),
    "realWorldQa": (plain("acc", 765, 1, 0), ("acc",)),
    "vsr": (plain("acc", 1222, 2, 7), ("acc",)),
    "genEval": (geneval, ("overall",)),
    "dpgBench": (dpg, ("dpg_blip",)),
}


def result_of(name: str, items: Sequence[ItemScore], **changes: Any) -> BenchmarkResult:
    """Return a result whose metrics are the means of its items, as the reports' contract has it."""
    of_categories = ("overall",) if name == "genEval" else ()
    metrics = {}
    for metric in dict.fromkeys(metric for one in items for metric in one.scores):
        counted = [(one.category, one.scores[metric]) for one in items if metric in one.scores]
        groups: dict[str, list[float]] = {}
        for category, value in counted:
            groups.setdefault(category if metric in of_categories else "", []).append(value)
        metrics[metric] = 100 * float(np.mean([np.mean(group) for group in groups.values()]))
    headline = tuple(metric for metric in BENCHMARKS[name][1] if metric in metrics)
    fields: dict[str, Any] = {"provenance": {**PROVENANCE}, "means_of_categories": of_categories, **changes}
    return BenchmarkResult(metrics, headline, Table(name, ["what"], []), tuple(items), **fields)


def made_up_run(
    folder: Path,
    *,
    method: str = "UniMRG",
    seed: int = 1,
    skill: float = 0.6,
    model: str = "openuni L-512",
    initial: bool = False,
    training: Mapping[str, Any] | None = None,
    benchmarks: Sequence[str] = tuple(BENCHMARKS),
    kept: Sequence[int] = (),
    pictures: bool = False,
    results: Mapping[str, BenchmarkResult] | None = None,
    **changes: Any,
) -> Path:
    """Write a run into `folder` and return it. `training` replaces values of what was trained, `results` benchmarks."""
    trained = {
        "model": {"family": "openuni", "settings": {"variant": "L-512"}, "init": "s3://weights/base"},
        "data": "d" * 64,
        "objectives": dict.fromkeys(OBJECTIVES[method], 1.0),
        "optimizer": {"learningRate": 1e-5},
        "seed": seed,
        **(training or {}),
    }
    found = {name: _result(name, skill, seed) for name in benchmarks} | dict(results or {})
    summary = Summary(
        job=folder.name, uid=f"uid-of-{folder.name}", model=model, method=method, steps=0 if initial else 1000,
        seconds=3600.0, finished="2026-11-30T10:00:00+00:00", processes=8,
        weights="initial" if initial else "checkpoint", checkpoint="" if initial else "ckpt/step-00001000/",
        checkpoint_sha256="" if initial else f"{seed:064x}", data_digest="d" * 64, seeds={"training": seed},
        versions={"unimrg": "0.1.0", "torch": "2.13.0"}, training=trained, benchmarks=found,
    ).model_copy(update=changes)  # fmt: skip
    write_results(folder / "results", summary)
    for step in kept:
        earlier = {name: _result(name, skill * (0.85 + 0.15 * step / 1000), seed) for name in benchmarks}
        write_results(
            folder / f"results/step-{step}", summary.model_copy(update={"steps": step, "benchmarks": earlier})
        )
    if pictures:
        for item in found["genEval"].items:
            file = folder / "results/genEval" / item.prediction
            file.parent.mkdir(parents=True, exist_ok=True)
            colour = (40, 160, 90) if item.scores["overall"] else (190, 90, 30)
            buffer = io.BytesIO()
            Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
            file.write_bytes(buffer.getvalue())
    (folder / "job.json").write_text(json.dumps({"uid": summary.uid, "training": trained}))
    return folder


def write_results(folder: Path, summary: Summary) -> None:
    """Write summary.json and items/ as the stage evaluate does."""
    (folder / "items").mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(summary.to_json())
    for name, result in summary.benchmarks.items():
        if result.items:
            lines = (json.dumps(dataclasses.asdict(item)) for item in result.items)
            (folder / "items" / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def curves(folder: Path, method: str, seed: int) -> None:
    """Write the losses of training into the run's spool."""
    random = np.random.default_rng(seed)
    segment = folder / "spool/attempt-1/segment-000001-5f0c9a12.jsonl"
    segment.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(1, 1001, 5):
        losses = {
            f"train/loss/{name.lower()}": float((1 + index) * np.exp(-step / 300) + 0.2 + 0.05 * random.random())
            for index, name in enumerate(OBJECTIVES[method])
        }
        lines.append(json.dumps({"ts": step, "attempt": 1, "step": step, "metrics": losses}))
    segment.write_text("".join(f"{line}\n" for line in lines))


def _result(name: str, skill: float, seed: int) -> BenchmarkResult:
    random = np.random.Generator(np.random.Philox(key=len(name) + ord(name[0])))
    difficulty = random.random(5000)
    own = np.random.Generator(np.random.Philox(key=[seed, int(1000 * skill)])).normal(scale=0.15, size=5000)

    def draw(number: int) -> float:
        return float(difficulty[number] + own[number] < skill)

    return result_of(name, list(BENCHMARKS[name][0](draw)))


def full_set(folder: Path, *, seeds: Sequence[int] = (1, 2, 3), kept: Sequence[int] = (250, 500, 750)) -> list[Path]:
    """A base and three methods with several seeds each, and two ablations of UniMRG."""
    runs = [made_up_run(folder / "base", method="UniMRG", skill=0.6, initial=True, seed=0, pictures=True)]
    for method, skill in (("SFT", 0.61), ("RecA", 0.63), ("UniMRG", 0.67)):
        for seed in seeds:
            run = made_up_run(
                folder / f"{method.lower()}-s{seed}",
                method=method,
                seed=seed,
                skill=skill,
                kept=kept,
                pictures=seed == 1,
            )
            curves(run, method, seed)
            runs.append(run)
    for name, objectives in {
        "no-depth": {"Understanding": 1.0, "Pixel": 1.0, "Segmentation": 1.0},
        "light-pixel": {"Understanding": 1.0, "Pixel": 0.5, "Depth": 1.0, "Segmentation": 1.0},
    }.items():
        runs.append(made_up_run(folder / name, skill=0.64, seed=1, training={"objectives": objectives}))
    return runs


def read(folder: Path, *, is_base: bool = False) -> EvaluatedRun:
    """Return such a run as reports read it."""
    return read_run(StoredRun(LocalStore(folder)), is_base=is_base)
