"""Packed rows compute what rows of their own compute, for every family at any size: losses and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.rows import ALL, CPU, assert_equal_gradients, gradients, perturbed, rng_for, task
from tests.support.one_step import FAMILIES, tiny_family
from unimrg_trainer.models.base import Row
from unimrg_trainer.packing.composition import Composition

FIXED = settings(max_examples=8)

HEADS = st.sampled_from([(2, 1), (3, 3), (4, 2)])


def resized_harmon(draw: st.DrawFn, config: Any) -> Any:
    heads, key_value_heads = draw(HEADS)
    language = replace(config.language, width=16 * heads, heads=heads, key_value_heads=key_value_heads)
    mar = replace(config.mar, buffers=draw(st.integers(1, 9)), grid=draw(st.integers(3, 8)))
    return replace(config, language=language, mar=mar, image_size=draw(st.sampled_from([16, 32])))


def resized_openuni(draw: st.DrawFn, config: Any) -> Any:
    heads, key_value_heads = draw(HEADS)
    language = replace(config.language, heads=heads, key_value_heads=key_value_heads, width=24 * heads)
    return replace(config, language=language, queries=draw(st.integers(1, 12)))


def resized_showo(draw: st.DrawFn, config: Any) -> Any:
    heads = draw(st.integers(1, 3))
    return replace(config, language=replace(config.language, width=32 * heads, heads=heads))


RESIZED: dict[str, Callable[[st.DrawFn, Any], Any]] = {
    "harmon": resized_harmon,
    "openuni": resized_openuni,
    "showo": resized_showo,
}


@st.composite
def cases(draw: st.DrawFn, name: str) -> tuple[Any, list[Row]]:
    """A family of some size, and some rows: objectives of a few samples in any order, with texts of any length."""
    family: Any = tiny_family(name)
    family.config = RESIZED[name](draw, family.config)
    wanted = draw(
        st.lists(st.tuples(st.sampled_from(ALL), st.integers(0, 2), st.booleans()), min_size=1, max_size=7, unique=True)
    )
    rows: list[Row] = []
    for number, (objective, key, image) in enumerate(wanted):
        texts = {"prompt": "Which one? " * draw(st.integers(1, 4)), "answer": "left " * draw(st.integers(1, 3))}
        changes = texts if objective == "Understanding" else {}
        asked = task(objective, key, image=image or objective == "Pixel", **changes)
        rows += family.plan(objective, [(number, asked)], rng_for)
    return family, rows


def sums_of(family: Any, module: Any, rows: Sequence[Row], composition: Composition) -> torch.Tensor:
    batch = family.prepare(family.collate(rows, rng_for, composition), CPU, next(module.parameters()).dtype)
    sums: torch.Tensor = module(batch)
    return sums


@pytest.mark.parametrize("name", FAMILIES)
def test_losses_and_gradients_equal_in_float64(name: str) -> None:
    @FIXED
    @given(cases(name))
    def equal(case: tuple[Any, list[Row]]) -> None:
        family, rows = case
        module = perturbed(family)
        official, packed = (
            sums_of(family, module, rows, composition) for composition in (Composition.OFFICIAL, Composition.GROUPED)
        )
        torch.testing.assert_close(packed, official, rtol=1e-9, atol=0)
        weights = torch.linspace(0.5, 2, len(rows), dtype=torch.float64)
        assert_equal_gradients(gradients(module, official @ weights), gradients(module, packed @ weights))

    equal()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", FAMILIES)
def test_both_ways_to_compute_attention_equal(name: str) -> None:
    """FlexAttention has no backward on a CPU; test_packed_on_a_gpu.py compares that too."""
    family = tiny_family(name)
    tasks = [(one, task(one, number)) for number in (0, 1) for one in ALL]
    tasks += [(one, task(one, 2, image=False)) for one in ("Understanding", "Depth")]
    rows = [row for n, (one, asked) in enumerate(tasks) for row in family.plan(one, [(n, asked)], rng_for)]
    module = perturbed(family)
    with torch.no_grad():
        grouped, flex = (sums_of(family, module, rows, c) for c in (Composition.GROUPED, Composition.FLEX))
    torch.testing.assert_close(flex, grouped, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_equal_in_float32_to_a_hundred_thousandth(name: str) -> None:
    family = tiny_family(name)
    rows = [row for n in (0, 1) for one in ALL for row in family.plan(one, [(n, task(one, n))], rng_for)]
    module = perturbed(family, torch.float32)
    one, other = (
        gradients(module, sums_of(family, module, rows, c).mean()) for c in (Composition.OFFICIAL, Composition.GROUPED)
    )
    whole = torch.stack([g.norm() for g in one.values()]).norm()
    apart = torch.stack([(one[key] - other[key]).norm() for key in one]).norm()
    assert apart <= 1e-5 * whole
