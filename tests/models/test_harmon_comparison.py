"""The API for comparison from outside, held against a small reference that pads, loops and computes every token."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from tests.models.harmon_rows import batch_of, family, rows_of
from tests.models.rows import perturbed
from tests.models.test_harmon_diffusion import published_steps, squared_cosine, textbook_loss
from unimrg_api.sizes.harmon import HarmonConfig, config_of
from unimrg_trainer.models.common.text import TextSegment
from unimrg_trainer.models.harmon.comparison import (
    GivenRow,
    GivenTarget,
    Prompt,
    SamplingSettings,
    answers,
    build,
    export,
    load,
    loss_sums,
    sample,
)
from unimrg_trainer.models.harmon.module import Harmon
from unimrg_trainer.models.harmon.rows import ImageSegment, TargetSegment

random = torch.Generator().manual_seed(8)
B, P = 3, 2


def small() -> HarmonConfig:
    """No named size: fewer channels than the codec of `Tiny` has, and every masked token twice."""
    return replace(config_of("Tiny"), codec_channels=5, diffusion_repeats=P)


def model() -> Harmon:
    module = build(small()).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=torch.float64, generator=random), alpha=0.08)
    return module


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=random)


LATENTS = normal(4, 64, 5)
PROMPTS = [Prompt((766, 5, 9), (20, 30, 767), image=0), Prompt((766, 5), (7,), image=1), Prompt((766,), (1, 2, 3, 4))]


class Reference:
    """One forward of a padded batch, by the published description: masks as booleans, positions by counting."""

    def __init__(self, module: Harmon) -> None:
        self.module, self.mar, self.b = module, module.mar, module.config.mar.buffers

    def positions(self, learned: Tensor) -> Tensor:
        square = learned[:, -36:].reshape(1, 6, 6, -1).permute(0, 3, 1, 2)
        wide = functional.interpolate(square, (8, 8), mode="bilinear").flatten(2).transpose(1, 2)
        return torch.cat([learned[:, :-36], wide], dim=1)

    def encode(self, x: Tensor, masked: Tensor) -> Tensor:
        tokens = torch.cat([self.mar.fake_latent.expand(len(x), self.b, -1), self.mar.z_proj(x)], dim=1)
        tokens = self.mar.z_proj_ln(tokens + self.positions(self.mar.encoder_pos_embed_learned))
        shown = functional.pad(~masked, (self.b, 0), value=True)
        tokens = tokens[shown].reshape(len(x), -1, tokens.shape[-1])
        for block in self.mar.encoder_blocks:
            tokens = block(tokens)
        return self.mar.encoder_norm(tokens)

    def rotated(self, encoded: Tensor) -> Tensor:
        z = self.module.proj_in(encoded)
        return torch.cat([z[:, self.b :], z[:, : self.b]], dim=1)

    def prompt(self, prompt: Prompt) -> Tensor:
        before, after = (self.module.embed(torch.tensor(list(ids))) for ids in (prompt.before, prompt.after))
        if prompt.image is None:
            return torch.cat([before, after])
        image = LATENTS[prompt.image][None]
        h = self.rotated(self.encode(image, torch.zeros(1, 64, dtype=torch.bool)))[0]
        return torch.cat([before, h, after])

    def conditions(self, prompts: list[Prompt], x: Tensor, masked: Tensor) -> Tensor:
        rows = [self.prompt(prompt) for prompt in prompts]
        encoded = self.encode(x, masked)
        z = self.rotated(encoded)
        real = pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
        real = torch.cat([real, torch.ones(z.shape[:2])], dim=1).long()
        places = (real.cumsum(1) - 1).clamp(min=0)
        embeddings = torch.cat([pad_sequence(rows, batch_first=True), z], dim=1)
        states = self.module.llm.model(inputs_embeds=embeddings, attention_mask=real, position_ids=places)[0]
        states = states[:, -z.shape[1] :]
        states = torch.cat([states[:, -self.b :], states[:, : -self.b]], dim=1)
        embedded = self.mar.decoder_embed(encoded + self.module.proj_out(states))
        grid = self.mar.mask_token.expand(len(x), self.b + 64, -1).clone()
        grid[functional.pad(~masked, (self.b, 0), value=True)] = embedded.flatten(0, 1)
        grid = grid + self.positions(self.mar.decoder_pos_embed_learned)
        for block in self.mar.decoder_blocks:
            grid = block(grid)
        return self.mar.decoder_norm(grid)[:, self.b :] + self.positions(self.mar.diffusion_pos_embed_learned)


def some_masked(count: int) -> Tensor:
    return torch.stack([torch.randperm(64, generator=random) < count for _ in range(B)])


def test_image_losses_are_those_of_a_padded_reference() -> None:
    module, masked = model(), some_masked(50)
    times = torch.tensor([0, 3, 500, 999])[torch.randint(4, (B, 64, P), generator=random)]
    noise = normal(B, 64, P, 5)
    rows = [
        GivenRow(prompt, target=GivenTarget(3 - i, masked[i], times[i], noise[i])) for i, prompt in enumerate(PROMPTS)
    ]
    x = LATENTS[[3, 2, 1]]
    with torch.no_grad():
        conditions = Reference(module).conditions(PROMPTS, x, masked)
        expected = []
        for i in range(B):
            total = 0.0
            for token in masked[i].nonzero()[:, 0].tolist():
                for use in range(P):
                    t = int(times[i, token, use])
                    start, epsilon = x[i, token], noise[i, token, use]
                    kept = squared_cosine((t + 1) / 1000) / squared_cosine(0) if t < 999 else KEPT_LAST
                    noisy = math.sqrt(kept) * start + math.sqrt(1 - kept) * epsilon
                    net = module.mar.diffloss.net
                    predicted = net(noisy[None, None], torch.tensor([[t]]), conditions[i, token][None])[0, 0]
                    total += float(textbook_loss(predicted, start, epsilon, t))
            expected.append(total)
        found = loss_sums(module, LATENTS, rows)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)
        assert rows[1].target is not None
        swapped = [rows[0], replace(rows[1], target=replace(rows[1].target, image=0)), rows[2]]
        assert (loss_sums(module, LATENTS, swapped) != found).tolist() == [False, True, False]


KEPT_LAST = squared_cosine(999 / 1000) / squared_cosine(0) * (1 - 0.999)
"""ᾱ of the last step, whose β is cut at 0.999."""


def test_answer_losses_are_cross_entropies_of_a_padded_reference() -> None:
    module = model()
    reference = Reference(module)
    labels = [(-100, 30, 767), (7,), (-100, -100, 3, 4)]
    rows = [GivenRow(prompt, labels=learnt) for prompt, learnt in zip(PROMPTS, labels, strict=True)]
    expected = []
    for prompt, learnt in zip(PROMPTS, labels, strict=True):
        scores = module.llm(inputs_embeds=reference.prompt(prompt)[None]).logits[0]
        ids = torch.tensor([-100] * (len(scores) - len(learnt)) + list(learnt))
        expected.append(functional.cross_entropy(scores[:-1].double(), ids[1:], reduction="sum"))
    found = loss_sums(module, LATENTS, rows)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-6, atol=0)
    found.sum().backward()
    assert module.mar.z_proj.weight.grad is not None


def reference_sample(
    module: Harmon, orders: Tensor, noise: Tensor, rounds: int, settings: SamplingSettings, nothing: Prompt
) -> Tensor:
    """No cache, all tokens predicted in every round, products of α instead of the schedule's tables."""
    steps = published_steps(settings.diffusion_steps)
    kept_of = [math.prod(1 - min(1 - squared_cosine((i + 1) / 1000) / squared_cosine(i / 1000), 0.999)
                         for i in range(t + 1)) for t in steps]  # fmt: skip
    reference, net = Reference(module), module.mar.diffloss.net
    masked, tokens = torch.ones(B, 64, dtype=torch.bool), torch.zeros(B, 64, 5, dtype=torch.float64)
    for index in range(rounds):
        conditions = [reference.conditions(prompts, tokens, masked) for prompts in (PROMPTS, [nothing] * B)]
        count = max(1, min(int(masked[0].sum()) - 1, math.floor(64 * math.cos(math.pi / 2 * (index + 1) / rounds))))
        later = torch.zeros_like(masked).scatter_(1, orders[:, :count], True)
        now = masked if index == rounds - 1 else masked ^ later
        linear = settings.guidance_schedule == "Linear"
        guidance = 1 + (settings.guidance - 1) * (1 - count / 64) if linear else settings.guidance
        x = noise[0]
        for place in reversed(range(len(steps))):
            times = torch.full((B, 64), steps[place])
            (with_, variance), (without, _) = (
                net(x.flatten(0, 1)[:, None], times.flatten()[:, None], c.flatten(0, 1))[:, 0]
                .reshape(B, 64, 10)
                .chunk(2, dim=-1)
                for c in conditions
            )
            epsilon = without + guidance * (with_ - without)
            kept, before = kept_of[place], kept_of[place - 1] if place else 1.0
            beta = 1 - kept / before
            start = (x - math.sqrt(1 - kept) * epsilon) / math.sqrt(kept)
            mean = math.sqrt(before) * beta / (1 - kept) * start
            mean = mean + math.sqrt(1 - beta) * (1 - before) / (1 - kept) * x
            if place:
                smallest = math.log(beta * (1 - before) / (1 - kept))
                share = (variance + 1) / 2
                log_variance = share * math.log(beta) + (1 - share) * smallest
                mean = mean + torch.exp(log_variance / 2) * noise[len(steps) - place]
            x = mean
        tokens = torch.where(now[..., None], x, tokens)
        masked = later
    return tokens


@pytest.mark.parametrize("schedule", ["Constant", "Linear"])
def test_sampled_tokens_are_those_of_a_reference_without_cache(schedule: Literal["Constant", "Linear"]) -> None:
    """Prompts of three lengths, with an image and without, together in one call."""
    module = model()
    settings = SamplingSettings(diffusion_steps=3, guidance=2.5, guidance_schedule=schedule)
    orders = torch.stack([torch.randperm(64, generator=random) for _ in range(B)])
    noise, nothing = normal(4, B, 64, 5), Prompt((766, 5), (8,))
    given: dict[str, Any] = {
        "orders": orders,
        "noise": noise,
        "rounds": 4,
        "settings": settings,
        "unconditional": nothing,
    }
    found = sample(module, PROMPTS, LATENTS, **given)
    with torch.no_grad():
        expected = reference_sample(module, orders, noise, 4, settings, nothing)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    one = {**given, "orders": orders[1:2], "noise": noise[:, 1:2]}
    torch.testing.assert_close(sample(module, PROMPTS[1:2], LATENTS, **one), found[1:2], rtol=1e-9, atol=1e-9)


def test_greedy_answers_are_those_without_a_cache() -> None:
    module = model()
    expected = []
    for prompt in PROMPTS:
        row, ids = Reference(module).prompt(prompt), []
        for _ in range(4):
            embedded = torch.cat([row, module.embed(torch.tensor(ids, dtype=torch.int64))])
            ids.append(int(module.llm(inputs_embeds=embedded[None]).logits[0, -1].argmax()))
        expected.append(ids)
    assert answers(module, PROMPTS, LATENTS, ends=(), max_new_tokens=4) == expected
    stopped = answers(module, PROMPTS, LATENTS, ends=(expected[0][2],), max_new_tokens=4)
    assert stopped[0] == expected[0][: expected[0].index(expected[0][2])]


def test_weights_go_out_under_published_names_and_come_back() -> None:
    one, other = model(), build(small()).double()
    published = export(one)
    assert set(published) == set(one.state_dict())
    assert torch.equal(published["llm.lm_head.weight"], published["llm.model.embed_tokens.weight"])
    unused = load(other, {**published, "vae.encoder.conv_in.weight": torch.zeros(1)})
    assert unused == ["llm.lm_head.weight", "vae.encoder.conv_in.weight"]
    for (name, ours), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    del published["proj_in.0.bias"]
    with pytest.raises(KeyError, match=r"proj_in\.0\.bias"):
        load(other, published)


def test_given_rows_have_the_losses_of_planned_rows() -> None:
    """What a family's own batch draws, passed in by hand, gives the same sums."""
    harmon = family()
    module = perturbed(harmon)
    rows = rows_of(harmon, ("Understanding", "Depth"), [0, 1])
    batch = batch_of(harmon, rows)
    assert batch.latents is not None
    given, first, images, targets = [], 0, iter(batch.images.tolist()), iter(batch.targets.tolist())
    for row in rows:
        before, image, after, *target = row.segments
        assert isinstance(before, TextSegment) and isinstance(after, TextSegment) and isinstance(image, ImageSegment)
        prompt = Prompt(before.token_ids, after.token_ids, image=next(images))
        if not target:
            given.append(GivenRow(prompt, labels=after.labels))
            continue
        assert isinstance(target[0], TargetSegment)
        masked = torch.zeros(64, dtype=torch.bool)
        places = slice(first, first + target[0].masked)
        tokens = batch.masked[places] % 64
        masked[tokens] = True
        times, noise = torch.zeros(64, 4, dtype=torch.int64), torch.zeros(64, 4, 48, dtype=torch.float64)
        times[tokens], noise[tokens] = batch.timesteps[places], batch.noise[places]
        given.append(GivenRow(prompt, target=GivenTarget(next(targets), masked, times, noise)))
        first += target[0].masked
    np.testing.assert_allclose(
        loss_sums(module, batch.latents, given).detach(), module(batch).detach(), rtol=1e-12, atol=0
    )
