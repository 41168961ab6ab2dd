"""What the training loop costs beside a bare PyTorch loop, and beside the Trainer of transformers where that runs.

python benchmarks/loop_overhead.py [--quick] [--pairs N]

One process on one thread takes the same steps (forward, backward, clipping, fused AdamW) in turn: by hand, without and
with DistributedDataParallel, which copies every gradient even in one process; by the loop with all its parts
(DistributedDataParallel, prefetching, stop agreement, numeric guard with spikes, metrics every five steps, the slowest
rank, positions for the watchdog); by transformers' Trainer, without DistributedDataParallel, which needs the package
accelerate. Compared is the CPU time of the process, all threads together, of the steps after the first, without saving.
A ratio is the median of those within one pair. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.support.toy_training import toy_optimizer
from unimrg_api.spec_training import GuardSpec
from unimrg_trainer.engine.guard import NumericGuard
from unimrg_trainer.engine.loop import LoopSettings, TrainingLoop
from unimrg_trainer.engine.metrics import MetricsCollector
from unimrg_trainer.engine.rank_times import RankTimes
from unimrg_trainer.engine.schedule import Schedule
from unimrg_trainer.engine.step_plan import MicroStep, Step
from unimrg_trainer.engine.stopping import CollectiveStopFlag
from unimrg_trainer.engine.strategies.ddp import DataParallel
from unimrg_trainer.models.base import Row
from unimrg_trainer.sections import SectionFile

TARGET = 1.03
"""Largest CPU time of a step, in that of the bare loop."""
LEAST_STEP_SECONDS = 0.2
OBJECTIVES = ("Understanding", "Pixel", "Depth", "Segmentation")
ROWS = 4
"""Rows of each objective."""
CPU = torch.device("cpu")


class Model(nn.Module):
    """Rows [rows, tokens, width] → each row's loss [rows]."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(layers))

    def forward(self, rows: Tensor) -> Tensor:
        for layer in self.layers:
            rows = layer(rows)
        return rows.square().mean((1, 2))


def bare(model: nn.Module, rows: Tensor, steps: int) -> float:
    """CPU seconds of a step, by hand."""
    optimizer = toy_optimizer(model)
    began = 0.0
    for step in range(steps + 1):
        if step == 1:
            began = time.process_time()
        model(rows).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (time.process_time() - began) / steps


def wrapped(model: Model) -> nn.Module:
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def ours(model: Model, rows: Tensor, steps: int, folder: Path) -> float:
    """CPU seconds of a step of the loop."""
    plan = tuple(Row(name, row, 1) for name in OBJECTIVES for row in range(ROWS))
    weights = torch.full((len(plan),), 1.0 / len(plan), dtype=torch.float64)
    moments: dict[int, float] = {}
    sections = SectionFile(folder, 0)
    assert dist.group.WORLD is not None
    strategy = DataParallel(model, toy_optimizer, "FP32", CPU)
    TrainingLoop(
        strategy=strategy,
        schedule=Schedule(1e-5, 2, 100),
        collector=MetricsCollector(dict.fromkeys(OBJECTIVES, 1.0)),
        guard=NumericGuard(GuardSpec(spike_threshold="6", spike_window=8), CPU),
        plan_step=lambda number: Step(number, (MicroStep(plan, rows, weights),)),
        prepare=lambda batch: batch,
        stop=CollectiveStopFlag(SimpleNamespace(requested=False), dist.group.WORLD),
        save=lambda state, reason: None,
        report=lambda measured: None,
        rank_times=RankTimes(model, CPU, dist.group.WORLD),
        enter=sections.enter,
        before_step=lambda finished: moments.update({finished: time.process_time()}),
        settings=LoopSettings(steps + 2, steps + 2, clip_norm=1.0, seed=1),
    ).run(0)
    strategy.close()
    return (moments[steps + 1] - moments[1]) / steps


def transformers_trainer(model: Model, rows: Tensor, steps: int, folder: Path) -> float:
    """CPU seconds of a step of transformers' Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    moments: dict[int, float] = {}

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, rows: Tensor) -> dict[str, Tensor]:
            return {"loss": self.model(rows).mean()}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            moments[state.global_step] = time.process_time()

    settings = TrainingArguments(
        output_dir=str(folder), max_steps=steps + 2, per_device_train_batch_size=1, max_grad_norm=1.0, use_cpu=True,
        optim="adamw_torch_fused", logging_steps=5, save_strategy="no", report_to=[], disable_tqdm=True,
        remove_unused_columns=False,
    )  # fmt: skip
    data: Any = [{"rows": rows}] * (steps + 2)
    Trainer(
        model=Wrapped(), args=settings, train_dataset=data, data_collator=lambda items: items[0], callbacks=[Clock()]
    ).train()
    return (moments[steps + 1] - moments[1]) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="two pairs of a small model, which prove nothing")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    width, layers, tokens = 1024, 8, 40
    if arguments.quick:
        arguments.pairs, arguments.steps, width, tokens = 2, 6, 256, 8
    torch.set_num_threads(1)
    rows = torch.randn(len(OBJECTIVES) * ROWS, tokens, width)
    has_accelerate = importlib.util.find_spec("accelerate") is not None
    seconds: dict[str, list[float]] = {"bare": [], "ddp": [], "loop": [], "transformers": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dist.init_process_group("gloo", f"file://{folder}/meeting", rank=0, world_size=1)
        ways: list[tuple[str, Callable[[Model], float]]] = [
            ("bare", lambda model: bare(model, rows, arguments.steps)),
            ("ddp", lambda model: bare(wrapped(model), rows, arguments.steps)),
            ("loop", lambda model: ours(model, rows, arguments.steps, folder)),
        ]
        if has_accelerate:
            ways.append(("transformers", lambda model: transformers_trainer(model, rows, arguments.steps, folder)))
        for pair in range(arguments.pairs):
            for way, measure in ways if pair % 2 == 0 else ways[::-1]:
                seconds[way].append(measure(Model(width, layers)))
        dist.destroy_process_group()
    ratios = {way: [a / b for a, b in zip(found, seconds["bare"], strict=False)] for way, found in seconds.items()}
    middle = {way: statistics.median(found) if found else None for way, found in ratios.items()}
    step = statistics.median(seconds["bare"])
    report = {
        "name": "loop_overhead",
        "figures": {
            "cpu_seconds_of_a_bare_step": round(step, 4),
            "pairs": arguments.pairs,
            "ratios_of_the_loop": [round(one, 4) for one in ratios["loop"]],
            "ratio_of_a_bare_loop_with_ddp": round(middle["ddp"] or 0.0, 4),
            "ratio_of_transformers": middle["transformers"] and round(middle["transformers"], 4),
            "transformers": "measured" if has_accelerate else "not measured: accelerate is not installed",
        },
        "ratio": round(middle["loop"] or 0.0, 4),
        "target": TARGET,
        "holds": (middle["loop"] or 9.0) <= TARGET and step >= LEAST_STEP_SECONDS,
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread",
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
