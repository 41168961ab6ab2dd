"""On a GPU, packed rows under FlexAttention and under stacked chunks equal the official rows; skipped without one."""

from __future__ import annotations

import pytest
import torch

from tests.models.rows import ALL, gradients, perturbed, rng_for, task
from tests.support.one_step import FAMILIES, tiny_family
from unimrg_trainer.packing.composition import Composition

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("composition", [Composition.GROUPED, Composition.FLEX])
@pytest.mark.parametrize("name", FAMILIES)
def test_losses_and_gradients_equal_those_of_official_rows(name: str, composition: Composition) -> None:
    device = torch.device("cuda")
    family = tiny_family(name)
    rows = [row for n in (0, 1) for one in ALL for row in family.plan(one, [(n, task(one, n))], rng_for)]
    module = perturbed(family, torch.float32).to(device)
    found = []
    for chosen in (Composition.OFFICIAL, composition):
        batch = family.prepare(family.collate(rows, rng_for, chosen).pin_memory(), device, torch.float32)
        sums = module(batch)
        found.append((sums.detach(), gradients(module, sums.mean())))
    (expected, one), (sums, other) = found
    torch.testing.assert_close(sums, expected, rtol=1e-3, atol=1e-4)
    whole = torch.stack([g.norm() for g in one.values()]).norm()
    apart = torch.stack([(one[key] - other[key]).norm() for key in one]).norm()
    assert apart <= 1e-3 * whole
