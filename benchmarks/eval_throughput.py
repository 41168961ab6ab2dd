"""How much faster answers are in batches with cached keys, and on two ranks, than one by one.

python benchmarks/eval_throughput.py [--quick] [--repeats N]

The rival asks one question after another and reads prompt and answer anew for every token; a second one caches keys
and values, as VLMEvalKit's wrappers do. Ours are the blocks of `evaluation/runner.py`, on one rank and on two, each
with one thread. All put the same questions about images to the same Harmon: the tiny one (`--quick`), or one whose
images have four times as many tokens; answers are compared. They take turns, and a ratio is the median of the ratios
within one round. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from unimrg_trainer.engine.measuring import SharedWork, TrainedModel
from unimrg_trainer.evaluation.benchmarks.base import Item
from unimrg_trainer.evaluation.runner import Runner
from unimrg_trainer.maps.geometry import pad_square
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.models.requests import AnswerRequest
from unimrg_trainer.rng import generator

QUESTIONS, NEW_TOKENS, RANKS = 64, 8, 2
TARGET = 3.0
NO_CACHE, CACHE, BATCHES, TWO_RANKS = "one by one", "one by one, cached", "blocks", "blocks on two ranks"


def build(quick: bool) -> tuple[Any, Any]:
    """Return family and module, with random weights from a seed."""
    torch.manual_seed(0)
    family: Any = find_family("harmon", {"variant": "Tiny"})
    if not quick:
        language = replace(family.config.language, width=192, layers=4, heads=6, key_value_heads=2, feed_forward=576)
        mar = replace(family.config.mar, grid=12)
        family.config = replace(family.config, language=language, mar=mar, image_size=64)
    return family, family.build().eval()


def questions(size: int) -> list[Item]:
    """Questions of different length, each about an image of its own."""
    items = []
    for number in range(QUESTIONS):
        image = generator("eval-throughput", number).integers(0, 256, (size, size, 3), dtype=np.uint8)
        text = " and ".join(["what is there"] * (number % 5 + 1))
        items.append(Item(str(number), AnswerRequest(text, image)))
    return items


@torch.inference_mode()
def without_cache(family: Any, module: Any, request: AnswerRequest) -> str:
    """Answer as the definition says: the whole row is read for every token."""
    template, tokenizer, buffers = family.template, family.tokenizer, family.config.mar.buffers
    assert request.image is not None
    square = torch.from_numpy(pad_square(request.image, family.config.image_size)[None])
    features = module.features(family.encode(square).float())
    parts = [module.embed(torch.tensor([template.opening()])), features[:, buffers:], features[:, :buffers]]
    ids, answer = template.question(request.prompt, with_image=True), list[int]()
    while len(answer) < NEW_TOKENS:
        row = torch.cat([*parts, module.embed(torch.tensor([[*ids, *answer]]))], dim=1)
        states = module.language(row, torch.arange(row.shape[1])[None])
        token = int(module.logits(states[:, -1]).argmax())
        if token in (tokenizer.turn_end, tokenizer.text_end):
            break
        answer.append(token)
    return str(tokenizer.decode(answer))


def work(rank: int, quick: bool, repeats: int, port: int, found: Any) -> None:
    """Measure on one rank; rank 0 puts {rival: seconds of each round} into `found`."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    family, module = build(quick)
    items = questions(family.config.image_size)
    requests = [item.request for item in items if isinstance(item.request, AnswerRequest)]
    model = TrainedModel(family, module)

    def blocks(ranks: SharedWork) -> list[Any]:
        return Runner(model, ranks, lambda *_: None).ask(items, "questions", max_new_tokens=NEW_TOKENS)

    alone = SharedWorkAlone(0, 1)
    rivals: dict[str, Callable[[], Sequence[Any]]] = {
        NO_CACHE: lambda: [without_cache(family, module, request) for request in requests],
        CACHE: lambda: [model.answer([request], NEW_TOKENS)[0] for request in requests],
        BATCHES: lambda: blocks(alone),
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*rivals, TWO_RANKS)}
    answers: dict[str, Sequence[Any]] = {}
    for _ in range(repeats + 1):  # the first is for warming up
        for name, ask in rivals.items():
            dist.barrier()
            if rank == 0:
                began = time.perf_counter()
                answers[name] = ask()
                seconds[name].append(time.perf_counter() - began)
        dist.barrier()
        began = time.perf_counter()
        answers[TWO_RANKS] = blocks(SharedWork(rank, RANKS))
        seconds[TWO_RANKS].append(time.perf_counter() - began)
    if rank == 0:
        same = {
            name: sum(a == b for a, b in zip(given, answers[NO_CACHE], strict=True)) for name, given in answers.items()
        }
        found.put(({name: values[1:] for name, values in seconds.items()}, same))
    dist.barrier()
    dist.destroy_process_group()


class SharedWorkAlone(SharedWork):
    """One rank that has all the work, while the process group has more."""

    def gather(self, mine: Sequence[Any]) -> list[Any]:
        return list(mine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    context = get_context("spawn")
    found = context.SimpleQueue()
    port = 20_000 + os.getpid() % 20_000
    arguments = (options.quick, options.repeats, port, found)
    processes = spawn(work, arguments, nprocs=RANKS, join=False)  # type: ignore[no-untyped-call]
    seconds, same = found.get()
    processes.join()
    ratios = {
        name: statistics.median(rival / own for rival, own in zip(seconds[NO_CACHE], values, strict=True))
        for name, values in seconds.items()
    }
    rates = {name: QUESTIONS / statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:22} {statistics.median(values):7.2f} s  {ratios[name]:5.1f} ×  {same[name]} of {QUESTIONS} equal")
    figures = {
        "answers_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "ratios": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "cached_ratio": round(ratios[TWO_RANKS] / ratios[CACHE], 2),
        "equal_answers": same,
    }
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"
    ratio = round(ratios[TWO_RANKS], 2)
    print(
        json.dumps(
            {"name": "eval_throughput", "figures": figures, "ratio": ratio, "target": TARGET, "holds": ratio >= TARGET}
            | {"machine": machine}
        )
    )


if __name__ == "__main__":
    main()
