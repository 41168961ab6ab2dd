"""One forward over rows of all kinds computes what separate forwards compute, in losses and in gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.models.harmon_rows import (
    BRANCHES,
    CPU,
    HIDDEN,
    TOKENS,
    assert_equal_gradients,
    batch_of,
    family,
    gradients,
    perturbed,
    pictures,
    plan_of,
)
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.mar import interpolation_matrix
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.packing.plan import Geometry, ImageInput, Plan, Row, Segment, Target
from unimrg_trainer.rng import generator

ALL = tuple(BRANCHES)


def test_positions_are_interpolated_bilinearly() -> None:
    for grid, side in ((8, 12), (16, 32), (4, 3)):
        learned = torch.randn(grid * grid, 5, dtype=torch.float64)
        picture = learned.T.reshape(1, 5, grid, grid)
        expected = functional.interpolate(picture, (side, side), mode="bilinear", align_corners=False).flatten(2)[0].T
        torch.testing.assert_close(interpolation_matrix(grid, side).double() @ learned, expected, rtol=0, atol=1e-6)


def test_a_packed_forward_equals_one_forward_per_objective() -> None:
    harmon = family()
    module = perturbed(harmon)
    weights = {name: 0.3 + index for index, name in enumerate(ALL)}
    packed_plan = plan_of(harmon, ALL, range(3))
    packed = module(batch_of(harmon, packed_plan))
    factor = torch.tensor([weights[row.objective] for row in packed_plan.rows], dtype=torch.float64)
    together = gradients(module, (packed * factor).sum())
    parts = {name: module(batch_of(harmon, plan_of(harmon, [name], range(3)))) for name in ALL}
    torch.testing.assert_close(packed, torch.cat(list(parts.values())), rtol=1e-10, atol=0)
    apart = gradients(module, sum((weights[name] * part.sum() for name, part in parts.items()), torch.tensor(0.0)))
    assert_equal_gradients(together, apart)
    assert {name for name, _ in module.named_parameters()} - together.keys() == {"mar.class_emb.weight"}


def test_a_rows_loss_does_not_depend_on_its_company() -> None:
    harmon = family()
    module = perturbed(harmon)
    with torch.no_grad():
        alone = module(batch_of(harmon, plan_of(harmon, ["Depth"], [5])))
        among = module(batch_of(harmon, plan_of(harmon, ALL, [4, 5])))
    rows = plan_of(harmon, ALL, [4, 5]).rows
    index = next(i for i, row in enumerate(rows) if (row.objective, row.global_row) == ("Depth", 5))
    torch.testing.assert_close(among[index], alone[0], rtol=1e-10, atol=0)


def tree_and_chains(harmon: HarmonFamily) -> tuple[Plan, Plan]:
    """The same four branches of one image as one row that shares opening and image, and as four rows."""
    names = ("Pixel", "Depth", "Understanding", "Segmentation")
    segments: list[Segment] = []
    targets: list[Target] = []
    for name in names:
        own, _ = harmon.lay_out(BRANCHES[name], HIDDEN[name])
        segments = segments or list(own[:2])
        shift = len(segments) - 2
        segments.append(own[2])
        for segment in own[3:]:
            segments.append(replace(segment, parent=segment.parent + shift, target=len(targets)))
            targets.append(Target(0, name.lower(), HIDDEN[name]))
    row = Row("Tree", 6, tuple(segments), 1, 1.0)
    tree = Plan((row,), (ImageInput(0, Geometry.SQUASH),), tuple(targets), (0,) * len(targets))
    chains = plan_of(harmon, names, [6])
    return tree, replace(chains, images=tuple(replace(image, sample=0) for image in chains.images))


def test_a_tree_row_equals_its_branches_as_chains() -> None:
    harmon = family()
    module = perturbed(harmon)
    tree, chains = tree_and_chains(harmon)
    assert not tree.rows[0].is_chain() and all(row.is_chain() for row in chains.rows)

    def collate(plan: Plan) -> torch.Tensor:
        batch = harmon.collate(
            plan,
            pictures(harmon.image_size, [image.sample for image in plan.images]),
            pictures(harmon.image_size, [target.representation for target in plan.targets]),
            lambda objective, row, purpose: generator(row, purpose),
        )
        assert (batch.visibility is None) == (plan is chains)
        sums: torch.Tensor = module(batch.to(CPU, torch.float64))
        return sums

    one, four = collate(tree), collate(chains)
    torch.testing.assert_close(one[0], four.sum(), rtol=1e-10, atol=0)
    assert_equal_gradients(gradients(module, collate(tree).sum()), gradients(module, collate(chains).sum()))


def test_a_mask_that_says_causal_equals_no_mask() -> None:
    harmon = family()
    module = perturbed(harmon)
    plan = plan_of(harmon, ALL, [0, 1])
    batch = batch_of(harmon, plan)
    length = batch.sources.shape[1]
    sees = torch.ones(length, length, dtype=torch.bool).tril().expand(len(plan.rows), 1, -1, -1)
    masked = replace(batch, visibility=sees)
    torch.testing.assert_close(module(masked), module(batch), rtol=1e-10, atol=0)


def test_the_features_gradient_is_a_tenth() -> None:
    harmon = family()
    plan = plan_of(harmon, ["Understanding"], [0, 1])
    batch = batch_of(harmon, plan)
    scaled, plain = perturbed(harmon), perturbed(harmon)
    plain.config = replace(plain.config, feature_gradient_scale=1.0)
    tenth, whole = gradients(scaled, scaled(batch).sum()), gradients(plain, plain(batch).sum())
    behind_h = [name for name in whole if name.startswith(("mar.", "proj_in."))]
    assert behind_h
    for name in whole:
        factor = 0.1 if name in behind_h else 1.0
        torch.testing.assert_close(tenth[name], factor * whole[name], rtol=1e-9, atol=1e-12)


def test_targets_reach_the_encoder_unscaled() -> None:
    """Only h is scaled: with the scale at 0 the encoder still learns from the visible tokens of targets."""
    harmon = family()
    module = perturbed(harmon)
    module.config = replace(module.config, feature_gradient_scale=0.0)
    found = gradients(module, module(batch_of(harmon, plan_of(harmon, ["Pixel"], [0]))).sum())
    assert found["mar.z_proj.weight"].norm() > 0 and found["proj_in.0.weight"].norm() > 0


@pytest.mark.parametrize("objectives", [("Understanding",), ("Pixel",), ALL, ("Understanding", "Depth")])
def test_what_is_frozen_is_what_no_gradient_reaches(objectives: tuple[str, ...]) -> None:
    harmon = family()
    module = perturbed(harmon)
    found = gradients(module, module(batch_of(harmon, plan_of(harmon, objectives, [0, 1]))).sum())
    reached = {name for name, gradient in found.items() if gradient.any()}
    assert {name for name, _ in module.named_parameters()} - reached == harmon.frozen(objectives)


def test_decay_spares_vectors_biases_and_the_head() -> None:
    harmon = family()
    decayed = {name for name, p in harmon.build().named_parameters() if harmon.decays(name, p)}
    assert {"mar.mask_token", "mar.fake_latent", "llm.model.embed_tokens.weight", "proj_in.0.weight"} <= decayed
    assert not any("diffloss" in name or name.endswith(".bias") or "norm" in name for name in decayed)


def test_text_alone_and_pictures_alone_have_losses() -> None:
    harmon = family()
    module = perturbed(harmon)
    for objectives in (("Understanding",), ("Segmentation",)):
        sums = module(batch_of(harmon, plan_of(harmon, objectives, [0, 1])))
        assert sums.shape == (2,) and sums.isfinite().all() and (sums > 0).all()


def test_a_target_without_a_visible_token_has_a_loss() -> None:
    harmon = family()
    plan = plan_of(harmon, ["Depth"], [0])
    segments, count = harmon.lay_out(BRANCHES["Depth"], harmon.config.tokens)
    everything = replace(
        plan,
        rows=(Row("Depth", 0, (*segments[:3], replace(segments[3], target=0)), count, 1.0),),
        targets=(Target(0, "depth", harmon.config.tokens),),
    )
    assert perturbed(harmon)(batch_of(harmon, everything)).isfinite().all()


def test_the_understanding_loss_is_the_cross_entropy_of_the_answer() -> None:
    """Against Qwen2's own loss on the same embeddings."""
    harmon = family()
    module = perturbed(harmon)
    plan = plan_of(harmon, ["Understanding"], [0])
    batch = batch_of(harmon, plan)
    opening, _, text = plan.rows[0].segments
    features = module.features(batch.images).roll(-harmon.config.mar.buffers, dims=1)
    embeddings = torch.cat(
        [module.embed(torch.tensor([opening.token_ids])), features, module.embed(torch.tensor([text.token_ids]))],
        dim=1,
    )
    labels = torch.tensor([[-100] * (embeddings.shape[1] - text.length) + list(text.labels)])
    output = module.llm(inputs_embeds=embeddings, labels=labels)
    expected = output.loss * sum(label >= 0 for label in text.labels)
    assert module(batch)[0].item() == pytest.approx(expected.item(), rel=1e-6)


def test_dropout_follows_torchs_generator() -> None:
    harmon = family(dropout=0.1)
    torch.manual_seed(0)
    module = harmon.build()
    with torch.no_grad():
        for parameter in module.mar.diffloss.parameters():
            parameter.normal_(std=0.1)
    batch = batch_of(harmon, plan_of(harmon, ALL, [0]), torch.float32)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(module(batch))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_bfloat16_autocast_keeps_losses_in_float32() -> None:
    harmon = family()
    module = perturbed(harmon, torch.float32)
    batch = batch_of(harmon, plan_of(harmon, ALL, [0]), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        low = module(batch)
    low.sum().backward()
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, module(batch), rtol=0.05, atol=0)


def test_the_mean_mask_rate_is_the_published_one() -> None:
    harmon = HarmonFamily("1.5B")
    random = generator("rates")
    hidden = np.array([harmon.draw_hidden(random) for _ in range(20000)])
    assert hidden.mean() / 1024 == pytest.approx(0.867, abs=0.003)
    assert hidden.min() >= 0.7 * 1024 and hidden.max() <= 1024


def test_draws_depend_on_the_row_and_on_nothing_else() -> None:
    harmon = family()
    alone = batch_of(harmon, plan_of(harmon, ["Depth"], [5]))
    among = batch_of(harmon, plan_of(harmon, ["Pixel", "Depth"], [5, 6]))
    first = 2 * HIDDEN["Pixel"]
    rows = slice(first, first + HIDDEN["Depth"])
    assert torch.equal(among.noise[rows], alone.noise)
    assert torch.equal(among.timesteps[rows], alone.timesteps)
    assert torch.equal(among.hidden[rows] - 2 * TOKENS, alone.hidden)
    assert not torch.equal(among.noise[: HIDDEN["Depth"]], alone.noise)


def test_a_module_holds_no_codec() -> None:
    module = family().build()
    assert isinstance(module, Harmon) and module.training
    assert {name.split(".")[0] for name in module.state_dict()} == {"llm", "mar", "proj_in", "proj_out"}


def test_packing_counts_are_the_batchs() -> None:
    harmon = family()
    plan = plan_of(harmon, ALL, [0, 1])
    batch = batch_of(harmon, plan)
    of_targets = dict.fromkeys(range(len(plan.rows)), 0)
    for units, row in zip(batch.units_per_target, batch.target_rows, strict=True):
        of_targets[row] += units
    assert [a + of_targets[i] for i, a in enumerate(batch.units_per_row)] == [row.count for row in plan.rows]
