"""Measures the memory of optimiser steps on the CPU, as a process of its own.

    python -m tests.support.step_memory harmon wide Blocks

Prints JSON: `peak`, by how many bytes resident memory exceeded at most what it was before the model was built, and what
arithmetic needs to know: `counts` of the batch. Large blocks of memory go back to the system at once.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.support.one_step import freeze, planner_of, tiny_family
from unimrg_api.spec_training import OptimizerSpec, Recompute
from unimrg_trainer.engine.optimizer import build_optimizer
from unimrg_trainer.engine.recompute import recompute_activations
from unimrg_trainer.engine.strategies.choose import build_strategy

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144", "OMP_NUM_THREADS": "1"}
"""So that the allocator keeps nothing."""
CPU = torch.device("cpu")


def wide(family: Any) -> int:
    """Widen a family's language model, so that weights are what needs memory; return the rows of each objective."""
    language = replace(family.config.language, width=576, layers=6, heads=18, feed_forward=2304)
    family.config = replace(family.config, language=language)
    return 2


def long(family: Any) -> int:
    """Make activations, and a vocabulary, what needs memory."""
    language = replace(family.config.language, width=192, layers=4, heads=6, feed_forward=768)
    if hasattr(language, "vocabulary"):
        language = replace(language, vocabulary=20_000)
    family.config = replace(family.config, language=language)
    return 8


SIZES = {"wide": wide, "long": long}


def resident(name: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def steps(family: Any, rows: int, recompute: Recompute) -> dict[str, Any]:
    """Three steps of `rows` rows of each objective: the first makes moments, the second makes buckets anew."""
    planner = planner_of(family, rows)
    micro_step = planner.plan_step(0, 0, 1).micro_steps[0]
    batch = family.prepare(micro_step.batch, CPU, torch.float32)
    before = resident("VmRSS")
    module = family.build()
    freeze(module, family.frozen(planner.objectives))
    recompute_activations(module, recompute)
    strategy = build_strategy("DDP", module, lambda m: build_optimizer(m, OptimizerSpec(), family.decays), "FP32", CPU)
    for _ in range(3):
        strategy.forward_backward(batch, micro_step.row_weights, sync_gradients=True)
        strategy.clip(1.0)
        strategy.step(1e-5)
    return {"peak": resident("VmHWM") - before, "counts": asdict(micro_step.batch.counts().computed())}


def main(name: str, size: str, recompute: Any) -> None:
    """Measure a family at one of SIZES."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    steps(tiny_family(name), 1, "Nothing")  # loads what is loaded at first use
    family = tiny_family(name)
    rows = SIZES[size](family)
    sys.stdout.write(json.dumps(steps(family, rows, recompute)))


if __name__ == "__main__":
    main(*sys.argv[1:])
