"""How much faster a step is with packed rows, beside what its arithmetic allows, for each family.

python benchmarks/packed_step.py [--quick] [--family harmon|openuni|showo] [--repeats N]

One configuration per family has the published token counts and, within 10 %, the published shares of cost of its parts
(docs/method/packing.md), with widths that a laptop computes in seconds; `--quick` takes the size Tiny, whose shares
are others. All layouts of a family compute the same rows of the same samples, one after the other, several times over;
a ratio is the median of the ratios within one round. The limit of a row is the ratio of the floating-point operations
that the two sides need, each counted with its attention only where a token sees another (`Work`). Ends with one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unimrg_api.spec_training import Recompute
from unimrg_trainer.engine.recompute import recompute_activations
from unimrg_trainer.maps.registry import find_map
from unimrg_trainer.models.common.attention import GroupedAttention
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample

CPU, META = torch.device("cpu"), torch.device("meta")
MAPS = ("pixel", "depth", "segmentation")
SAMPLES = 2
TARGET = 0.9
"""Share of the limit that a step reaches at least."""
TOKEN_TARGET = 0.95
"""The same for the language model alone."""
TOLERANCE = 0.1
"""How far a part's share of the cost may be from the published one."""
QUESTION = "Which of the things in the picture is nearest to the viewer, and what is to the left of it? "
ANSWER = "The nearest is the large red ball, and to the left of it a small blue cube stands on the ground. "


@dataclass(frozen=True)
class Case:
    """One family at one size."""

    name: str
    config: Callable[[Any], Any]
    """Changes the configuration of the size Tiny."""
    language: str
    """Name of the language model within the module."""
    shares: Mapping[tuple[str, ...], float]
    """Beginnings of the names of a part's modules → its share of the forward, as published."""


def harmon(config):
    language = replace(config.language, width=384, layers=2, heads=6, key_value_heads=2, feed_forward=1200)
    mar = replace(config.mar, width=192, heads=6, encoder_blocks=2, decoder_blocks=2, buffers=64, grid=16)
    mar = replace(mar, head_width=192, head_blocks=3, dropout=0.0)
    return replace(config, language=language, mar=mar, image_size=128, question_limit=1472)


def openuni(config):
    language = replace(config.language, width=384, layers=2, heads=6, key_value_heads=2, feed_forward=1792)
    vision = replace(config.vision, size=64, patch=2)
    connector = replace(config.connector, layers=1, heads=6, feed_forward=128)
    sana = replace(config.sana, layers=5, heads=8, head_width=32, cross_heads=8, cross_head_width=32)
    return replace(config, language=language, vision=vision, connector=connector, sana=sana, image_size=64, queries=256)


def showo(config):
    language = replace(config.language, width=384, layers=2, heads=6, feed_forward=2048)
    clip = replace(config.clip, image_size=96, patch=4)
    return replace(config, language=language, clip=clip, image_size=128, source_size=96, prompt_limit=125)


CASES = {
    # Harmon-1.5B at 512², TFLOP of a forward of one image's rows: language model 10.80 + 4.68, encoder 4 · 0.977 +
    # 3 · 0.161, decoder 3 · 0.977, head 3 · 1.073 (masked tokens alone)
    "harmon": Case(
        "harmon",
        harmon,
        "llm",
        {("llm",): 15.48, ("mar.encoder_blocks",): 4.39, ("mar.decoder_blocks",): 2.93, ("mar.diffloss",): 3.22},
    ),
    # OpenUni-L-512: language model 3 · 1.448 + 2.3, connector and projector 3 · 0.116, SANA 3 · 0.816
    "openuni": Case(
        "openuni",
        openuni,
        "lmm.language_model",
        {("lmm.language_model",): 6.64, ("connector", "projector"): 0.35, ("transformer",): 2.45},
    ),
    # Show-o CLIP-512: body 3 · (5.18 − 0.415) + 4.76, head on masked and labelled tokens 3 · 0.156 + 0.04
    "showo": Case("showo", showo, "showo", {("showo.model",): 19.0, ("showo.lm_head",): 0.51}),
}


@dataclass(frozen=True)
class Layout:
    """One way to compute the step."""

    composition: Composition
    recompute: Recompute = "Nothing"
    prepared: bool = False
    """What the codec makes of pictures was prepared, and comes with the samples."""
    same_images: bool = False
    """Questions are about the images that are generated."""


OFFICIAL, PACKED = Composition.OFFICIAL, Composition.GROUPED
SAME_IMAGES = "packed, questions about the same images"
"""For Harmon alone: in the other families questions and maps read an image differently."""
ROWS = {
    "packed, every block recomputed on both sides": (Layout(OFFICIAL, "Blocks"), Layout(PACKED, "Blocks")),
    "packed, nothing recomputed on both sides": (Layout(OFFICIAL), Layout(PACKED)),
    "packed, latents given on both sides": (Layout(OFFICIAL, prepared=True), Layout(PACKED, prepared=True)),
    SAME_IMAGES: (Layout(OFFICIAL), Layout(PACKED, same_images=True)),
    "as published (recomputed, online) against ours (not, latents given)": (
        Layout(OFFICIAL, "Blocks"),
        Layout(PACKED, prepared=True),
    ),
}


class Bench:
    """A family with its module, and the samples that all layouts compute."""

    def __init__(self, case: Case, quick: bool) -> None:
        self.case = case
        settings = {"variant": "Tiny", **({"dropout": "0"} if case.name == "harmon" else {})}
        self.family: Any = find_family(case.name, settings)
        self.counted: Any = find_family(case.name, settings)
        """The same on the device `meta`, where torch counts attention's operations too."""
        if not quick:
            self.family.config = self.counted.config = case.config(self.family.config)
        torch.manual_seed(0)
        self.module: Any = self.family.build()
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        self.side = self.family.config.image_size
        self._modules: dict[Recompute, nn.Module] = {"Nothing": self.module}

    @cached_property
    def per_token(self) -> int:
        """Operations of the language model's linear layers for one token."""
        layers = [p for n, p in self.module.named_parameters() if self.case.language in n and ".layers." in n]
        return 2 * sum(p.numel() for p in layers if p.ndim == 2)

    def module_of(self, recompute: Recompute) -> nn.Module:
        """The module under a policy of recomputation; all share one set of weights."""
        if recompute not in self._modules:
            module = self.family.build()
            module.load_state_dict(self.module.state_dict())
            recompute_activations(module, recompute)
            self._modules[recompute] = module
        return self._modules[recompute]

    def sample(self, key: str, prepared: bool) -> Sample:
        def drawn(name: str, *shape: int) -> np.ndarray:
            return generator("packed-step", key, name).integers(256, size=shape, dtype=np.uint8)

        maps = {name: drawn(name, self.side, self.side) for name in ("depth", "segmentation")}
        sample = Sample(key, drawn("image", self.side, self.side, 3), maps)
        if not prepared:
            return sample
        read = [each for map in (None, *map(find_map, MAPS)) for each in self.family.reading(map).encodings]
        arrays = {
            each.name: self.family.encode(torch.from_numpy(each.draw(sample).copy())[None])[0].numpy() for each in read
        }
        return replace(sample, encodings=arrays)

    def rows(self, layout: Layout) -> list[Any]:
        """Rows of all objectives; the questions differ in length, and are about images of their own or the same."""
        rows: list[Any] = []
        for name in MAPS:
            chosen = find_map(name)
            tasks = [
                (n, Task(self.sample(f"generated-{n}", layout.prepared), chosen.canonical_prompt, map=chosen))
                for n in range(SAMPLES)
            ]
            rows += self.family.plan(chosen.objective, tasks, self.rng)
        about = "generated" if layout.same_images else "asked"
        asked = [self.sample(f"{about}-{n}", layout.prepared) for n in range(SAMPLES)]
        questions = [
            (n, Task(sample, QUESTION * (1 + n % 2), answer=ANSWER * (1 + n % 2))) for n, sample in enumerate(asked)
        ]
        return rows + self.family.plan("Understanding", questions, self.rng)

    @staticmethod
    def rng(objective: str, row: int, purpose: str) -> np.random.Generator:
        return generator("packed-step", objective, row, purpose)

    def collated(self, layout: Layout) -> Any:
        return self.family.collate(self.rows(layout), self.rng, layout.composition)

    def prepared(self, batch: Any) -> Any:
        return self.family.prepare(batch, CPU, torch.float32)

    def seconds(self, layout: Layout, batch: Any) -> float:
        """Time of the frozen encoders, one forward and its backward."""
        module = self.module_of(layout.recompute)
        module.zero_grad()
        started = time.perf_counter()
        module(self.prepared(batch)).sum().backward()
        return time.perf_counter() - started


class Work:
    """Floating-point operations of a step: counted by torch, with attention only where a token sees another."""

    def __init__(self, bench: Bench, layout: Layout, batch: Any) -> None:
        with FlopCounterMode(display=False) as encoders:
            ready = bench.counted.prepare(batch, META, torch.float32)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            bench.counted.build().to(META)(ready)
        self.parts = {name.split(".", 1)[-1]: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
        forward = counter.get_total_flops() - self._unseen(bench, batch)
        # a backward costs twice its forward; recomputing costs the forward again
        passes = 4 if layout.recompute == "Blocks" else 3
        self.total = passes * forward + encoders.get_total_flops()

    @staticmethod
    def _unseen(bench: Bench, batch: Any) -> float:
        """Operations that were counted for pairs of tokens of the language model that do not see each other, and for
        tokens that only fill a row or the sequence."""
        language = bench.family.config.language
        length = batch.sources.shape[-1]
        if isinstance(batch.attention, GroupedAttention):
            computed = sum(
                q.numel() * k.shape[1] for q, k in zip(batch.attention.queries, batch.attention.keys, strict=True)
            )
        else:
            computed = batch.sources.shape[0] * length**2
        pairs = visible_pairs(batch)
        attention = 4 * language.width * language.layers * (computed - pairs)
        return attention + bench.per_token * (batch.sources.numel() - real_tokens(batch))


def real_tokens(batch: Any) -> int:
    """Places but for the padding of a packed sequence; that of official rows is the published computation's own."""
    if isinstance(batch.attention, GroupedAttention):
        return len(set(torch.cat([places.flatten() for places in batch.attention.queries]).tolist()))
    return int(batch.sources.numel())


def visible_pairs(batch: Any) -> int:
    """Pairs (query, key) that see each other in the official rows, each row alone; shared queries count once."""
    attention = batch.attention
    if isinstance(attention, GroupedAttention):
        pairs = 0
        for queries, keys, mask in zip(attention.queries, attention.keys, attention.masks, strict=True):
            n, m = queries.shape[1], keys.shape[1]
            shown = torch.ones(n, m, dtype=torch.bool).tril(m - n).expand(len(queries), n, m) if mask is None else mask
            shown = shown.reshape(-1, n, m).expand(len(queries), n, m)
            first = queries[:, :1]
            real = torch.cat([torch.ones(len(queries), 1, dtype=torch.bool), queries[:, 1:] != first], dim=1)
            keys_real = torch.cat([torch.ones(len(queries), m - n, dtype=torch.bool), real], dim=1)
            pairs += int((shown & real[:, :, None] & keys_real[:, None, :]).sum())
        return pairs
    rows, length = batch.sources.shape
    if attention is None:
        return rows * length * (length + 1) // 2
    return int(attention.sum())


def language_seconds(bench: Bench, batch: Any) -> float:
    """Time of forward and backward of the language model alone on the batch's layout."""
    width = bench.family.config.language.width
    embeddings = torch.randn(*batch.sources.shape, width, requires_grad=True)
    started = time.perf_counter()
    bench.module.language(embeddings, batch.positions, batch.attention).sum().backward()
    return time.perf_counter() - started


def language_work(bench: Bench, batch: Any) -> float:
    """Operations of its forward."""
    language = bench.family.config.language
    attention = 4 * language.width * language.layers * visible_pairs(batch)
    return float(bench.per_token * real_tokens(batch) + attention)


def share_report(bench: Bench, work: Work) -> dict[str, dict[str, float]]:
    """Each part's share of the official forward, beside the published one."""
    found = {
        starts: sum(count for name, count in work.parts.items() if _is_top(name, starts, work.parts))
        for starts in bench.case.shares
    }
    total, published = sum(found.values()), sum(bench.case.shares.values())
    return {
        starts[0]: {"measured": round(found[starts] / total, 3), "published": round(share / published, 3)}
        for starts, share in bench.case.shares.items()
    }


def _is_top(name: str, starts: Sequence[str], parts: Mapping[str, int]) -> bool:
    """Whether a module belongs to a part and none of the modules around it does."""
    if not name.startswith(tuple(starts)):
        return False
    around = name.rpartition(".")[0]
    while around:
        if around in parts and around.startswith(tuple(starts)):
            return False
        around = around.rpartition(".")[0]
    return True


def measure(case: Case, quick: bool, repeats: int) -> dict[str, Any]:
    bench = Bench(case, quick)
    pairs = {label: pair for label, pair in ROWS.items() if label != SAME_IMAGES or case.name == "harmon"}
    layouts = list(dict.fromkeys(layout for pair in pairs.values() for layout in pair))
    batches = {layout: bench.collated(layout) for layout in layouts}
    work = {layout: Work(bench, layout, batch) for layout, batch in batches.items()}
    shares = share_report(bench, work[Layout(OFFICIAL)])
    print(f"{case.name}: {shares}", flush=True)
    times: dict[Layout, list[float]] = {layout: [] for layout in layouts}
    language: dict[Composition, list[float]] = {OFFICIAL: [], PACKED: []}
    for index in range(repeats + 1):  # the first round warms up
        for layout in layouts:
            seconds = bench.seconds(layout, batches[layout])
            if index:
                times[layout].append(seconds)
        for composition, found in language.items():
            seconds = language_seconds(bench, bench.prepared(batches[Layout(composition)]))
            if index:
                found.append(seconds)
        print(f"{case.name}: round {index} of {repeats}", flush=True)
    rows = {}
    for label, (slow, fast) in pairs.items():
        ratios = [one / other for one, other in zip(times[slow], times[fast], strict=True)]
        rows[label] = _row(ratios, times[slow], times[fast], work[slow].total / work[fast].total)
    ratios = [one / other for one, other in zip(language[OFFICIAL], language[PACKED], strict=True)]
    limit = language_work(bench, batches[Layout(OFFICIAL)]) / language_work(bench, batches[Layout(PACKED)])
    rows["language model alone"] = _row(ratios, language[OFFICIAL], language[PACKED], limit)
    for label, row in rows.items():
        print(f"  {label:70} {row['ratio']:5.2f}x of {row['limit']:5.2f}x: {100 * row['of_limit']:.0f} %", flush=True)
    return {"shares": shares, "rows": rows}


def _row(ratios: Sequence[float], slow: Sequence[float], fast: Sequence[float], limit: float) -> dict[str, float]:
    ratio = statistics.median(ratios)
    return {
        "official_s": round(statistics.median(slow), 3),
        "packed_s": round(statistics.median(fast), 3),
        "ratio": round(ratio, 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
        "limit": round(limit, 3),
        "of_limit": round(ratio / limit, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--family", choices=CASES)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    names = [options.family] if options.family else list(CASES)
    figures = {name: measure(CASES[name], options.quick, options.repeats) for name in names}
    reached = [
        row["of_limit"] >= (TOKEN_TARGET if label == "language model alone" else TARGET)
        for found in figures.values()
        for label, row in found["rows"].items()
    ]
    near = [
        abs(share["measured"] - share["published"]) <= TOLERANCE * share["published"]
        for found in figures.values()
        for share in found["shares"].values()
    ]
    first = next(iter(figures.values()))["rows"]["packed, every block recomputed on both sides"]
    print(
        json.dumps(
            {
                "name": "packed_step",
                "figures": figures,
                "ratio": first["ratio"],
                "target": f"{TARGET:.0%} of each row's limit, {TOKEN_TARGET:.0%} for the language model alone",
                "holds": all(reached) and (options.quick or all(near)),
                "machine": f"{os.cpu_count()} x {platform.machine()}, torch {torch.__version__}",
            }
        )
    )


if __name__ == "__main__":
    main()
