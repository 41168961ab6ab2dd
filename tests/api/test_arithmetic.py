"""Counts of rows and pairs against single tokens, and the laws that memory and utilisation obey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from unimrg_api.arithmetic.devices import DEVICES, find_device
from unimrg_api.arithmetic.families.base import Encoder, FamilyArithmetic
from unimrg_api.arithmetic.families.registry import arithmetic_of
from unimrg_api.arithmetic.flops import Trained
from unimrg_api.arithmetic.layers import BOTH, Block, Cost, Counts, Part, linear, parameters
from unimrg_api.arithmetic.memory import Load, Memory, memory
from unimrg_api.arithmetic.plan import Assumed, plan_of
from unimrg_api.arithmetic.rows import Forward, Rows, Span, Texts, official_counts, packed_counts, seen_pairs
from unimrg_api.errors import UserError
from unimrg_api.job import UniMRGJob
from unimrg_api.spec_model import HarmonSpec, OpenUniSpec
from unimrg_api.spec_platform import StrategyName

GROUP = Forward(2, True, 3, True, Texts())


def job(*, checkpoint: dict[str, Any] | None = None, **spec: Any) -> UniMRGJob:
    """Of Harmon-1.5B, unless `spec` says otherwise."""
    return UniMRGJob.model_validate(
        {
            "apiVersion": "training.unimrg.dev/v1alpha1",
            "kind": "UniMRGJob",
            "metadata": {"name": "planned"},
            "spec": {
                "model": {"harmon": {"variant": "1.5B"}},
                "data": {"shards": ["s3://bucket/data"]},
                **spec,
                "checkpoint": {"uri": "s3://bucket/run", **(checkpoint or {})},
            },
        }
    )


def pairs_one_by_one(spans: Sequence[Span]) -> int:
    kinds = [index for index, span in enumerate(spans) for _ in range(int(span.length))]
    return sum(
        key <= query or (kinds[key] == kinds[query] and spans[kinds[key]].full) or spans[kinds[key]].everyone
        for query in range(len(kinds))
        for key in range(len(kinds))
    )


@pytest.mark.parametrize(
    "spans",
    [
        [Span(3), Span(5)],
        [Span(2), Span(4, full=True), Span(3)],
        [Span(2), Span(4, everyone=True), Span(1), Span(3), Span(5, full=True)],
        [Span(2, everyone=True), Span(4, everyone=True), Span(1, everyone=True), Span(6)],
    ],
)
def test_pairs_are_those_counted_token_by_token(spans: list[Span]) -> None:
    assert seen_pairs(spans) == pairs_one_by_one(spans)


def test_packed_rows_have_a_shared_beginning_once() -> None:
    """Two images, each with a prefix of 10 tokens, and branches of 4 and 6 tokens; a row of 7 tokens shares nothing."""
    rows = [Rows(2, [Span(10), Span(4)], 1, "image"), Rows(2, [Span(10), Span(6)], 1, "image"), Rows(1, [Span(7)])]
    packed, official = packed_counts(rows, 5, stacked=False), official_counts(rows, 5)
    assert packed.tokens == 2 * (10 + 4 + 6) + 7 and packed.computed_tokens == 128
    branches = sum(10 * n + n * (n + 1) / 2 for n in (4, 6))
    assert packed.pairs == packed.computed_pairs == 2 * (10 * 11 / 2 + branches) + 7 * 8 / 2
    assert official.tokens == 2 * (14 + 16) + 7 and official.computed_tokens == 5 * 16
    assert official.pairs == 2 * (14 * 15 / 2 + 16 * 17 / 2) + 7 * 8 / 2
    assert official.computed_pairs == 5 * 16 * 17 / 2 and official.scored == packed.scored == 5


def test_strategies_divide_what_they_say() -> None:
    """On one process nothing is divided; on eight, weights, gradients and moments shrink in this order."""
    family = arithmetic_of(HarmonSpec(variant="1.5B"))
    load = Load(family.counts(GROUP, packed=True), Trained(GROUP.wanted), "FP32", "Blocks", 8, 1)
    ddp, zero1, zero2, zero3, fsdp2 = (
        memory(family, load, name) for name in ("DDP", "ZeRO1", "ZeRO2", "ZeRO3", "FSDP2")
    )
    trained = 4 * 2_493_494_048
    assert (ddp.gradients, ddp.moments) == (trained, 2 * trained)
    assert zero1.moments == zero2.moments == zero3.moments == 3 * trained / 8
    assert zero2.gradients == zero3.gradients == fsdp2.gradients == trained / 8
    assert zero3.weights == fsdp2.weights == ddp.weights / 8 and fsdp2.moments == ddp.moments / 8
    assert ddp.total > zero1.total > zero2.total > zero3.total > fsdp2.total
    assert memory(family, replace(load, micro_steps=2), "FSDP2").gradients == trained / 8 + trained
    alone = replace(load, processes=1)
    one, same = memory(family, alone, "DDP"), memory(family, alone, "FSDP2")
    assert (one.weights, one.gradients, one.moments) == (same.weights, same.gradients, same.moments)


def test_less_is_held_the_more_is_computed_again() -> None:
    family = arithmetic_of(HarmonSpec(variant="1.5B"))
    load = Load(family.counts(GROUP, packed=True), Trained(GROUP.wanted), "BF16", "Nothing", 8, 1)
    held = [memory(family, replace(load, recompute=one), "DDP") for one in ("Nothing", "FeedForward", "Blocks")]
    assert held[0].activations > 1.4 * held[1].activations > 2 * held[2].activations


@pytest.mark.parametrize(
    "strategy, expected",
    [
        # P/n, T/n, 2 T/n in 4 bytes; no casts; head's gradient, and two blocks and all outside blocks in 2 bytes
        ("FSDP2", Memory(4700, 4700, 9400, 0, 2920, 3200, 400, 4000 + 2 * (2 * 900 + 2000))),
        # P, T, (1 + 2) T/n; 2 bytes of the blocks' and the head's matrices; head's gradient, and two buckets
        ("ZeRO1", Memory(18800, 18800, 14100, 7400, 2920, 3200, 400, 4000 + 2 * 50_000_000 * 4)),
    ],
)
def test_memory_in_bf16_is_what_was_computed_by_hand(strategy: StrategyName, expected: Memory) -> None:
    """4,700 parameters on 4 processes: an embedding of 1,000, three blocks of 900, a head of 1,000. Each of 8 tokens
    holds 60 numbers in a block, each of 2 scored ones 10 in the head, and 100 scores of 16 bytes."""
    block = Block(10, linear(10, 10, bias=False), linear(10, 40, bias=False) + linear(40, 10, bias=False), last=400)
    parts = [
        Part("Body", parameters(1000)),
        Part("Body", Cost(), lambda counts: counts.tokens, block, 3),
        Part("Body", linear(10, 100, bias=False), lambda counts: counts.scored, vocabulary=100),
    ]
    encoder = Encoder("codec", Cost(60), lambda counts: 1, unused=40)
    toy = FamilyArithmetic(parts, [encoder], lambda forward: [], lambda forward, counts, packed: counts, 0)
    load = Load(Counts(8, 0, 8, 0, 2), Trained(BOTH), "BF16", "Nothing", 4, 1)
    assert memory(toy, load, strategy) == expected


@pytest.mark.parametrize("images, calls", [(1, 1), (8, 8), (20, 8)])
def test_a_vision_tower_holds_eight_images_at_most(images: int, calls: int) -> None:
    family = arithmetic_of(OpenUniSpec(variant="L-512"))
    tower = family.encoders[0]
    alone = replace(family, parts=[part for part in family.parts if part.vocabulary], encoders=[tower])
    load = Load(Counts(0, 0, 0, 0, 0, looked_at=images), Trained(()), "BF16", "Blocks", 1, 1)
    assert memory(alone, load, "DDP").activations == 4 * 4 * tower.widest * calls


@pytest.mark.parametrize("sharing, pictures", [("Generation", 4), ("All", 3)])
def test_a_shared_image_is_read_once(sharing: str, pictures: int) -> None:
    """The question's image and the copied one, unless they are the same, and two maps; half a byte a pixel."""
    batch = {"rowsPerObjective": 128, "imageSharing": sharing}
    reads = plan_of(job(training={"batch": batch, "stopStep": 10}), Assumed(images=1000)).reads
    row = pictures * 640 * 480 / 2
    assert (reads.step, reads.training, reads.epoch) == (128 * row, 1280 * row, 1000 * row)


def test_only_known_devices_have_a_peak() -> None:
    names = {
        "NVIDIA H20": "H20",
        "NVIDIA H200": "H200",
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA A100-SXM4-80GB": "A100",
        "NVIDIA A100-PCIE-40GB": "A100-40GB",
        "NVIDIA L40S": "L40S",
    }
    for torch_name, name in names.items():
        assert find_device(torch_name) == DEVICES[name]
    for unknown in ("NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA GeForce RTX 4090", "NVIDIA H200 NVL"):
        assert find_device(unknown) is None


def test_peaks_are_those_that_the_maker_states() -> None:
    """In BF16 and FP32, 10¹² FLOPs a second, and GB."""
    assert {
        name: (one.bf16_flops / 1e12, one.fp32_flops / 1e12, one.memory / 1e9) for name, one in DEVICES.items()
    } == {
        "H20": (148, 44, 96),
        "A100": (312, 19.5, 80),
        "A100-40GB": (312, 19.5, 40),
        "H100": (989, 67, 80),
        "H800": (989, 67, 80),
        "H200": (989, 67, 141),
        "B200": (2250, 80, 180),
        "L40S": (362, 91.6, 48),
    }
    assert DEVICES["H20"].least_seconds(74e12 + 44e12, 44e12) == 0.5 + 1, "44 of them in FP32"


@pytest.mark.parametrize(
    "every, keep, expected",
    [
        (100, {"keepLast": 1}, 2),
        (100, {"keepLast": 3}, 3),
        (100, {"keepLast": 30}, 10),
        (300, {"keepLast": 2, "keepEvery": 500}, 3),  # 300, 600*, 900, 1000
        (100, {"keepLast": 2, "keepEvery": 200}, 6),  # 200*, 400*, 600*, 800*, 900, 1000
        (100, {"keepLast": 2, "keepEvery": 50}, 10),
        (400, {"keepLast": 2, "keepEvery": 1000}, 2),  # 400, 800, 1000
        (100, {"keepLast": 2, "keepEvery": 500, "early": 500}, 4),  # 500*, 900, 1000, and the best
        (500, {"keepLast": 5, "early": 500}, 2),
    ],
)
def test_commits_are_kept_as_retention_keeps_them(every: int, keep: dict[str, int], expected: int) -> None:
    """Of 1,000 steps; the first of a window is starred."""
    early = keep.pop("early", None)
    training = {"schedule": {"totalSteps": 1000}, **({"earlyStop": {"everySteps": early}} if early else {})}
    checkpoints = plan_of(job(training=training, checkpoint={"everySteps": every, **keep}), Assumed()).checkpoints
    assert checkpoints.kept == expected * checkpoints.commit
    assert checkpoints.written == -(-1000 // every) * checkpoints.commit


def test_a_family_of_a_package_has_no_plan() -> None:
    with pytest.raises(UserError, match="the costs of toy are not known"):
        plan_of(job(model={"custom": {"name": "toy"}}), Assumed())
