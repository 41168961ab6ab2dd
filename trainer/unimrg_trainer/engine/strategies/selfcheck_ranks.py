"""Runs the checks of strategies on processes of this machine, for `unimrg selfcheck`."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessException, spawn

from unimrg_api.spec_platform import StrategyName
from unimrg_trainer.engine.strategies.selfcheck import Outcome, check_strategy

RANKS = 2


def check_on_ranks(names: Sequence[StrategyName]) -> list[Outcome]:
    """Check strategies on two CPU processes. One that cannot run is an outcome that has not passed."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        left = list(names)
        while left:
            reason = ""
            try:
                # another meeting for each group of processes
                spawn(_rank, (left, Path(folder), f"meeting-{len(left)}"), nprocs=RANKS)  # type: ignore[no-untyped-call]
            except ProcessException as error:
                reason = str(error).strip().splitlines()[-1]
            while left and (file := Path(folder, f"{left[0]}.json")).exists():
                outcomes += [Outcome(**outcome) for outcome in json.loads(file.read_text())]
                left.pop(0)
            if left:  # its processes are gone: the others get new ones
                outcomes.append(Outcome(left.pop(0), f"could not run: {reason}", math.nan))
    return outcomes


def _rank(rank: int, names: Sequence[StrategyName], folder: Path, meeting: str) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/{meeting}", rank=rank, world_size=RANKS)
    for name in names:
        outcomes = list(check_strategy(name, torch.device("cpu")))
        if rank == 0:
            Path(folder, f"{name}.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
    dist.destroy_process_group()
