"""One forward over rows of all kinds computes what separate forwards compute, in losses and in gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.models.harmon_rows import MASKED, TOKENS, batch_of, family, row, rows_of
from tests.models.rows import ALL, gradients, perturbed, rng_for, task
from unimrg_trainer.models.common.text import TextSegment
from unimrg_trainer.models.harmon.family import HarmonFamily
from unimrg_trainer.models.harmon.mar import interpolation_matrix
from unimrg_trainer.models.harmon.rows import draw_masked
from unimrg_trainer.rng import generator


def test_positions_are_interpolated_bilinearly() -> None:
    for grid, side in ((8, 12), (16, 32), (4, 3)):
        learned = torch.randn(grid * grid, 5, dtype=torch.float64)
        picture = learned.T.reshape(1, 5, grid, grid)
        expected = functional.interpolate(picture, (side, side), mode="bilinear", align_corners=False).flatten(2)[0].T
        torch.testing.assert_close(interpolation_matrix(grid, side).double() @ learned, expected, rtol=0, atol=1e-6)


def test_a_mask_that_says_causal_equals_no_mask() -> None:
    harmon = family()
    module = perturbed(harmon)
    batch = batch_of(harmon, rows_of(harmon, ALL, [0, 1]))
    rows, length = batch.sources.shape
    sees = torch.ones(length, length, dtype=torch.bool).tril().expand(rows, 1, -1, -1)
    torch.testing.assert_close(module(replace(batch, attention=sees)), module(batch), rtol=1e-10, atol=0)


def test_the_features_gradient_is_a_tenth() -> None:
    harmon = family()
    batch = batch_of(harmon, rows_of(harmon, ["Understanding"], [0, 1]))
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
    found = gradients(module, module(batch_of(harmon, rows_of(harmon, ["Pixel"], [0]))).sum())
    assert found["mar.z_proj.weight"].norm() > 0 and found["proj_in.0.weight"].norm() > 0


def test_a_target_without_a_visible_token_has_a_loss() -> None:
    harmon = family()
    everything = row(harmon, "Depth", 0, task("Depth", 0), masked=TOKENS)
    assert perturbed(harmon)(batch_of(harmon, [everything])).isfinite().all()


def test_the_understanding_loss_is_the_cross_entropy_of_the_answer() -> None:
    """Against Qwen2's own loss on the same embeddings."""
    harmon = family()
    module = perturbed(harmon)
    (answering,) = rows_of(harmon, ["Understanding"], [0])
    batch = batch_of(harmon, [answering])
    opening, _, text = answering.segments
    assert isinstance(opening, TextSegment) and isinstance(text, TextSegment) and batch.latents is not None
    features = module.features(batch.latents).roll(-harmon.config.mar.buffers, dims=1)
    embeddings = torch.cat(
        [module.embed(torch.tensor([opening.token_ids])), features, module.embed(torch.tensor([text.token_ids]))], dim=1
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
    batch = batch_of(harmon, rows_of(harmon, ALL, [0]), torch.float32)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(module(batch))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_the_mean_mask_rate_is_the_published_one() -> None:
    config = HarmonFamily({"variant": "1.5B"}).config
    random = generator("rates")
    masked = np.array([draw_masked(config, random) for _ in range(20000)])
    assert masked.mean() / 1024 == pytest.approx(0.867, abs=0.003)
    assert masked.min() >= 0.7 * 1024 and masked.max() <= 1024


@pytest.mark.parametrize(
    ("mean", "deviation", "minimum", "expected"),
    [
        ("0.8", "0.000001", "0.5", (0.8, 0.8)),
        ("0", "0.001", "0.7", (0.7, 0.7)),  # all of it lies below: the bound is where it is densest
        ("1", "0.000001", "0.999", (1.0, 1.0)),
        ("0.5", "999", "0", (0.0, 1.0)),  # so wide that it is uniform
    ],
)
def test_a_mask_rate_of_any_setting_keeps_its_bounds(
    mean: str, deviation: str, minimum: str, expected: tuple[float, float]
) -> None:
    rate = {"mean": mean, "deviation": deviation, "minimum": minimum}
    config = HarmonFamily({"variant": "1.5B", "maskRate": rate}).config
    random = generator("rates")
    masked = np.array([draw_masked(config, random) for _ in range(2000)]) / config.tokens
    assert (masked.min(), masked.max()) == pytest.approx(expected, abs=0.003)
    assert masked.min() > 0


def test_a_cohort_shares_one_number_of_masked_tokens() -> None:
    harmon = family()

    def terms(first: int) -> list[int]:
        tasks = [(number, task("Depth", number)) for number in range(first, first + 5)]
        return [one.loss_terms for one in harmon.plan("Depth", tasks, rng_for)]

    assert len(set(terms(0))) == 1
    assert len({terms(first)[0] for first in range(0, 50, 5)}) > 1


def test_draws_depend_on_the_row_and_on_nothing_else() -> None:
    harmon = family()
    alone = batch_of(harmon, rows_of(harmon, ["Depth"], [5]))
    among = batch_of(harmon, rows_of(harmon, ["Pixel", "Depth"], [5, 6]))
    first = 2 * MASKED["Pixel"]
    places = slice(first, first + MASKED["Depth"])
    assert torch.equal(among.noise[places], alone.noise)
    assert torch.equal(among.timesteps[places], alone.timesteps)
    assert torch.equal(among.masked[places] - 2 * TOKENS, alone.masked)
    assert not torch.equal(among.noise[: MASKED["Depth"]], alone.noise)


def test_a_rows_loss_terms_are_those_that_its_batch_sums() -> None:
    harmon = family()
    rows = rows_of(harmon, ALL, [0, 1])
    batch = batch_of(harmon, rows)
    counted = list(batch.labels_per_row)
    for terms, index in zip(batch.terms_per_target, batch.target_rows, strict=True):
        counted[index] += terms
    assert counted == [one.loss_terms for one in rows]
