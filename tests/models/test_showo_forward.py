"""One forward over rows of all kinds: its losses against a naive reference, and against separate forwards."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.models.rows import ALL, CPU, assert_equal_gradients, gradients, perturbed, rng_for
from tests.models.showo_rows import BOTH, CODES, TINY, batch_of, family, rows_of
from unimrg_api.sizes.showo import ShowOConfig, config_of
from unimrg_trainer.models.common import cross_entropy as module_file
from unimrg_trainer.models.showo.module import ShowO
from unimrg_trainer.models.showo.rows import ImagePart, ShowORow, TargetPart, TextPart

PAD, SOI, EOI = 768, 769, 770


def naive_phi(module: ShowO, x: Tensor, sees: Tensor) -> Tensor:
    """Scores [L, vocabulary] of embeddings [L, D]: Phi spelled out, positions 0 … L − 1."""
    config, phi = module.config.language, module.showo
    size = config.width // config.heads
    turned = size // 2
    angles = torch.arange(len(x))[:, None] * 1e4 ** (-torch.arange(0, turned, 2) / turned)[None]
    cos, sin = angles.cos().double().repeat(1, 2), angles.sin().double().repeat(1, 2)

    def turn(heads: Tensor) -> Tensor:
        rotated, rest = heads[..., :turned], heads[..., turned:]
        half = turned // 2
        other = torch.cat([-rotated[..., half:], rotated[..., :half]], -1)
        return torch.cat([rotated * cos + other * sin, rest], -1)

    for layer in phi.model.layers:
        normed = layer.input_layernorm(x)
        attention = layer.self_attn
        query, key, value = (
            part(normed).view(len(x), -1, size).transpose(0, 1)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        weights = (turn(query) @ turn(key).mT / size**0.5).masked_fill(~sees, -1e9).softmax(-1)
        mixed = attention.dense((weights @ value).transpose(0, 1).flatten(1))
        inner = layer.mlp.fc1(normed)
        inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
        x = x + mixed + layer.mlp.fc2(inner)
    return phi.lm_head(phi.model.final_layernorm(x))


def padded(config: ShowOConfig, row: ShowORow) -> ShowORow:
    """The row as published, with pads wherever positions have a hole."""
    parts = []
    for before, part in pairwise([None, *row.parts]):
        start = 0 if before is None else before.end
        assert part is not None
        if hole := part.first - start:
            ids = (PAD,) * hole
            parts.append(TextPart(length=hole, first=start, token_ids=ids, labels=(-100,) * hole))
        parts.append(part)
    return replace(row, parts=tuple(parts))


def reference(module: ShowO, row: ShowORow, codes: dict[str, Tensor], shown: Tensor | None) -> float:
    """Loss sum of one row on its own, from the published layout: pads in place, masks by the rules of the paper's code.

    `codes`: of the target, and of the input image; `shown` are features.
    """
    config = module.config
    ids: list[Tensor] = []
    labels: list[int] = []
    kinds: list[str] = []
    for part in padded(config, row).parts:
        if isinstance(part, TextPart):
            ids += [module.embed(torch.tensor([i]))[0] for i in part.token_ids]
            labels += part.labels
            kinds += ["pad" if i == PAD else {SOI: "soi", EOI: "eoi"}.get(i, "text") for i in part.token_ids]
        elif isinstance(part, ImagePart):
            values = module.mm_projector(shown) if shown is not None else module.embed(codes["input"] + 778)
            ids += list(values)
            labels += [-100] * part.length
            kinds += ["input"] * part.length
        else:
            assert isinstance(part, TargetPart)
            order = rng_for(row.objective, row.global_row, "order").permutation(part.length)[: part.masked]
            masked = torch.zeros(part.length, dtype=torch.bool)
            masked[torch.from_numpy(order)] = True
            true = codes["target"] + 778
            ids += list(module.embed(torch.where(masked, 1290, true)))
            labels += torch.where(masked, true, -100).tolist()
            kinds += ["code"] * part.length
    length = len(ids)
    sees = torch.ones(length, length, dtype=torch.bool).tril()
    place = {kind: torch.tensor([found == kind for found in kinds]) for kind in ("pad", "input", "code")}
    generates = bool(place["code"].any())
    if config.clip:
        sees |= place["input"]
    elif not generates and "eoi" in kinds:
        sees[:, : kinds.index("eoi") + 1] = True
    elif place["input"].any():
        first, last = kinds.index("soi"), kinds.index("eoi")
        sees[first : last + 1, first : last + 1] = True
    if generates:
        first = kinds.index("code") - 1
        sees[first:, first:] = True
    sees &= ~place["pad"] | torch.eye(length, dtype=torch.bool)
    scores = naive_phi(module, torch.stack(ids), sees)
    wanted = torch.tensor(labels)
    if not generates:
        scores, wanted = scores[:-1], wanted[1:]
    return float(functional.cross_entropy(scores, wanted, ignore_index=-100, reduction="sum"))


@pytest.mark.parametrize("config", BOTH, ids=["CLIP", "codes"])
@pytest.mark.parametrize("image", [True, False], ids=["image", "text alone"])
def test_losses_are_those_of_the_published_rows_with_their_pads(config: ShowOConfig, image: bool) -> None:
    showo = family(config)
    module = perturbed(showo)
    rows = rows_of(showo, ALL if image else ["Understanding", "Depth"], [1, 2], image=image)
    batch = batch_of(showo, rows)
    assert batch.codes is not None
    pictures = batch.codes[: len(batch.pictures) * 64].long().view(-1, 64)
    views = batch.codes[len(batch.pictures) * 64 :].long().view(-1, config.source_tokens)
    expected = []
    with torch.no_grad():
        for row, condition, target in zip(rows, batch.conditions, batch.targets, strict=True):
            codes, shown = {}, None
            if target is not None:
                codes["target"] = pictures[target]
            if condition is not None and config.clip:
                assert batch.features is not None
                shown = batch.features[condition[1]]
            elif condition is not None:
                codes["input"] = (pictures if condition[0] == "pictures" else views)[condition[1]]
            expected.append(reference(module, row, codes, shown))
        found = module(batch)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_scores_in_parts_are_those_of_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    showo = family()
    module = perturbed(showo)
    batch = batch_of(showo, rows_of(showo, ALL, [0]))
    whole = module(batch)
    expected = gradients(module, whole.sum())
    monkeypatch.setattr(module_file, "SCORED_AT_ONCE", 17)
    parts = module(batch)
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=0)
    assert_equal_gradients(gradients(module, parts.sum()), expected)


def test_a_changed_image_changes_every_loss_that_reads_it() -> None:
    showo = family()
    module = perturbed(showo)
    batch = batch_of(showo, rows_of(showo, ALL, [0]))
    assert batch.features is not None
    with torch.no_grad():
        assert ((module(batch) - module(replace(batch, features=-batch.features))).abs() > 1e-3).all()


def test_random_weights_have_the_loss_of_guessing() -> None:
    """CE ≈ ln of the vocabulary where the head's weights are small."""
    config = replace(TINY, language=replace(TINY.language, initial_deviation=0.002))
    showo = family(config)
    torch.manual_seed(1)
    module = showo.build()
    rows = rows_of(showo, ALL, range(4))
    with torch.no_grad():
        sums = module(batch_of(showo, rows, torch.float32))
    terms = torch.tensor([row.loss_terms for row in rows])
    assert (sums.sum() / terms.sum()).item() == pytest.approx(np.log(config.vocabulary), abs=0.03)
    assert np.log(config_of("CLIP-512").vocabulary) == pytest.approx(10.977, abs=5e-4)


def test_draws_depend_on_the_row_and_on_nothing_else() -> None:
    showo = family()

    def masked(rows: list[ShowORow]) -> list[list[int]]:
        batch = showo.collate(rows, rng_for)
        length = batch.sources.shape[1]
        parts = torch.split(batch.predictors % length, list(batch.labels_per_row))
        starts = [sum(part.length for part in row.parts[:-2]) for row in rows]
        return [(part - start).tolist() for part, start in zip(parts, starts, strict=True)]

    among = masked(rows_of(showo, ["Pixel", "Depth"], [4, 5]))
    assert among[3] == masked(rows_of(showo, ["Depth"], [5]))[0]
    assert len({tuple(one) for one in among}) == 4


def test_biases_are_not_decayed_and_all_else_is() -> None:
    showo = family()
    names = {name for name, p in showo.build().named_parameters() if not showo.decays(name, p)}
    assert names == {name for name, _ in showo.build().named_parameters() if name.endswith("bias")}


def test_the_image_loss_is_computed_at_the_codes_own_places() -> None:
    """Without shift: exactly the masked codes predict, each its own label."""
    showo = family(CODES)
    (row,) = rows_of(showo, ["Depth"], [0])
    batch = showo.prepare(showo.collate([row], rng_for), CPU, torch.float32)
    table = perturbed(showo).table(batch)
    read = table[batch.sources[0]]
    assert (read[batch.predictors] == CODES.mask).all()
    assert (read == CODES.mask).sum() == row.loss_terms == len(batch.labels)
    assert batch.codes is not None
    first = sum(part.length for part in row.parts[:-2])
    expected = batch.codes[:64].long()[batch.predictors - first] + CODES.first_code
    assert torch.equal(table[batch.labels], expected)
