"""How much faster a step is with packed rows, beside what its arithmetic allows, for each family.

python benchmarks/packed_step.py [--quick] [--family harmon|openuni|showo] [--repeats N]

One configuration per family has the published token counts and, within 10 %, the published shares of cost of its parts
(docs/method/packing.md), with widths that a laptop computes in seconds; `--quick` takes the size Tiny, whose shares
are others. All layouts of a family compute the same rows of the same samples, one after the other, several times over;
a ratio is the median of the ratios within one round. The limit of a row is the ratio of the floating-point operations
that the two sides need, attention counted only where a token sees another (`Work`). Ends with one line of
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
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn

from unimrg_api.arithmetic.families.harmon import arithmetic as costs_harmon
from unimrg_api.arithmetic.families.openuni import arithmetic as costs_openuni
from unimrg_api.arithmetic.families.showo import arithmetic as costs_showo
from unimrg_api.arithmetic.flops import Trained, flops
from unimrg_api.arithmetic.layers import BOTH, Counts, Part
from unimrg_api.spec_training import Recompute
from unimrg_trainer.engine.recompute import recompute_activations
from unimrg_trainer.maps.registry import find_map
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.rng import generator
from unimrg_trainer.sample import Sample

CPU = torch.device("cpu")
ARITHMETIC: dict[str, Any] = {"harmon": costs_harmon, "openuni": costs_openuni, "showo": costs_showo}
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
    shares: Mapping[str, float]
    """Part of the arithmetic, or the language model's `Head` apart → its share of the forward, as published."""


def harmon(config: Any) -> Any:
    language = replace(config.language, width=384, layers=2, heads=6, key_value_heads=2, feed_forward=1200)
    mar = replace(config.mar, width=192, heads=6, encoder_blocks=2, decoder_blocks=2, buffers=64, grid=16)
    mar = replace(mar, head_width=192, head_blocks=3, dropout=0.0)
    return replace(config, language=language, mar=mar, image_size=128, question_limit=1472)


def openuni(config: Any) -> Any:
    language = replace(config.language, width=384, layers=2, heads=6, key_value_heads=2, feed_forward=1792)
    vision = replace(config.vision, size=64, patch=2)
    connector = replace(config.connector, layers=1, heads=6, feed_forward=64)
    sana = replace(config.sana, layers=5, heads=8, head_width=32, cross_heads=8, cross_head_width=32)
    return replace(config, language=language, vision=vision, connector=connector, sana=sana, image_size=64, queries=256)


def showo(config: Any) -> Any:
    language = replace(config.language, width=384, layers=2, heads=6, feed_forward=2048)
    clip = replace(config.clip, image_size=96, patch=4)
    return replace(config, language=language, clip=clip, image_size=128, source_size=96, prompt_limit=125)


CASES = {
    # Harmon-1.5B at 512², TFLOP of a forward of one image's rows: language model 10.80 + 4.68, encoder 4 · 0.977 +
    # 3 · 0.161, decoder 3 · 0.977, head 3 · 1.073 (masked tokens alone)
    "harmon": Case("harmon", harmon, {"LanguageModel": 15.48, "Encoder": 4.39, "Decoder": 2.93, "DiffusionHead": 3.22}),
    # OpenUni-L-512: language model 3 · 1.448 + 2.3, connector and projector 3 · 0.116, SANA 3 · 0.816
    "openuni": Case("openuni", openuni, {"LanguageModel": 6.64, "Connector": 0.35, "DiffusionTransformer": 2.45}),
    # Show-o CLIP-512: body 3 · (5.18 − 0.415) + 4.76, head on masked and labelled tokens 3 · 0.156 + 0.04
    "showo": Case("showo", showo, {"LanguageModel": 19.0, "Head": 0.51}),
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
        self.family: Any = cast(Any, find_family(case.name, settings))  # a family made of `config`
        if not quick:
            self.family.config = case.config(self.family.config)
        torch.manual_seed(0)
        self.module: Any = self.family.build()
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        self.side = self.family.config.image_size
        self._modules: dict[Recompute, nn.Module] = {"Nothing": self.module}

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
        rows += self.family.plan("Understanding", questions, self.rng)
        return rows

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
    """Floating-point operations of a step, by the arithmetic of `unimrg plan` on what the batch computes."""

    def __init__(self, bench: Bench, layout: Layout, batch: Any) -> None:
        counts = batch.counts()
        self._computed = counts.computed()
        # the padding of official rows is the published computation's own, but not what a mask hides
        if not layout.composition.packed:
            pairs = counts.computed_pairs if batch.attention is None else counts.pairs
            counts = replace(counts, tokens=counts.computed_tokens, pairs=pairs)
        self.counts = counts
        self.family = ARITHMETIC[bench.case.name](bench.family.config)
        self.total = flops(self.family, self.counts, Trained(BOTH), layout.recompute).total

    def forward(self, part: Part) -> float:
        """Operations of a part's forward, with what masks hide, as the published shares have it."""
        return self._forward(part, self._computed)

    def language(self) -> float:
        """Operations of the language model's forward, without its head."""
        language = (part for part in self.family.parts if part.name == "LanguageModel" and part.block)
        return sum(self._forward(part, self.counts) for part in language)

    def _forward(self, part: Part, counts: Counts) -> float:
        alone = replace(self.family, parts=[part], encoders=[])
        return flops(alone, counts, Trained(BOTH), "Nothing").forward


def language_seconds(bench: Bench, batch: Any) -> float:
    """Time of forward and backward of the language model alone on the batch's layout."""
    width = bench.family.config.language.width
    embeddings = torch.randn(*batch.sources.shape, width, requires_grad=True)
    started = time.perf_counter()
    bench.module.language(embeddings, batch.positions, batch.attention).sum().backward()
    return time.perf_counter() - started


def share_report(bench: Bench, work: Work) -> dict[str, dict[str, float]]:
    """Each part's share of the official forward, beside the published one."""
    found = dict.fromkeys(bench.case.shares, 0.0)
    for part in work.family.parts:
        name = "Head" if part.vocabulary else part.name
        if name in found:
            found[name] += work.forward(part)
    total, published = sum(found.values()), sum(bench.case.shares.values())
    return {
        name: {"measured": round(found[name] / total, 3), "published": round(share / published, 3)}
        for name, share in bench.case.shares.items()
    }


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
    limit = work[Layout(OFFICIAL)].language() / work[Layout(PACKED)].language()
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
