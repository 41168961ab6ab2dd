"""One forward over rows of all kinds computes what separate forwards compute, and what the formulas say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tests.models.openuni_rows import batch_of, family, mixed_rows, row, rows_of
from tests.models.rows import ALL, gradients, perturbed, picture, rng_for, task
from unimrg_api.arithmetic.rows import padded_length
from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.maps.registry import find_map
from unimrg_trainer.models.common.text import TextSegment
from unimrg_trainer.models.openuni.module import OpenUni
from unimrg_trainer.objectives.base import Task
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.packing.composition import Composition
from unimrg_trainer.packing.segments import row_length

openuni = family()


@pytest.fixture(scope="module")
def module() -> OpenUni:
    return perturbed(openuni)


def pixels_of(image: torch.Tensor) -> torch.Tensor:
    return image[None].permute(0, 3, 1, 2) / 127.5 - 1


@pytest.mark.parametrize("composition", [Composition.GROUPED, Composition.FLEX])
def test_opening_and_image_stand_once_among_openunis_packed_rows(composition: Composition) -> None:
    """Of each image, one for the questions and one for the generations: these see it in another size."""
    rows = mixed_rows(openuni, 0)
    official, batch = (batch_of(openuni, rows, composition=one) for one in (Composition.OFFICIAL, composition))
    shared = row_length(rows_of(openuni, ["Depth"], [0])[0].segments[:2])
    # about images: three questions, of which two are about the same one, and three generations about each of two
    tokens = sum(row_length(one.segments) for one in rows) - (1 + 2 * 2) * shared
    assert int((batch.sources > 0).sum()) == tokens
    assert batch.sources.shape == batch.positions.shape == (1, padded_length(tokens))
    assert batch.features is not None and len(batch.features) == 4
    positions, expected = (one.positions.flatten()[one.returns] for one in (batch, official))
    assert torch.equal(positions, expected)


def test_the_flow_matching_loss_is_the_published_formula(module: OpenUni) -> None:
    """Everything written out again from pixels on, for one target of a row with an image."""
    asked = task("Depth", 3)
    one = row(openuni, "Depth", 3, asked)
    batch = batch_of(openuni, [one])
    image = torch.from_numpy(squash(picture(3), 32)).float()
    target = torch.from_numpy(find_map("depth").target(asked.sample, 32)).float()
    h = openuni.tower(pixels_of(image)).double()
    x = openuni.codec.encode(pixels_of(target)).half().double()  # as they are stored
    ids = [list(s.token_ids) for s in one.segments if isinstance(s, TextSegment)]
    opening, prompt = (module.embed(torch.tensor([part])) for part in ids)
    sequence = torch.cat([opening, h, prompt, module.meta_queries[None]], dim=1)
    states = module.language_model(inputs_embeds=sequence, output_hidden_states=True).hidden_states[-1][:, -64:]
    t = 1 + int(rng_for("Depth", 3, "time/depth").integers(1000))
    noise = torch.from_numpy(rng_for("Depth", 3, "noise/depth").standard_normal(x.shape[1:], dtype="float32"))[None]
    sigma = t / 1000
    predicted = module.transformer(
        (1 - sigma) * x + sigma * noise.double(),
        encoder_hidden_states=module.projector(module.connector(states)),
        timestep=torch.tensor([float(t)]),
        return_dict=False,
    )[0]
    expected = functional.mse_loss(predicted, noise - x) * one.loss_terms
    assert one.loss_terms == 48 * 8 * 8
    torch.testing.assert_close(module(batch)[0], expected, rtol=1e-6, atol=0)


def test_openunis_understanding_loss_is_the_cross_entropy_of_the_answer(module: OpenUni) -> None:
    """Against Qwen2's own loss on the same embeddings."""
    (one,) = rows_of(openuni, ["Understanding"], [0])
    batch = batch_of(openuni, [one])
    opening, _, text = one.segments
    assert isinstance(opening, TextSegment) and isinstance(text, TextSegment)
    h = openuni.tower(pixels_of(torch.from_numpy(squash(picture(0), 32)).float())).double()
    before, after = (module.embed(torch.tensor([part.token_ids])) for part in (opening, text))
    labels = torch.tensor([[-100] * (opening.length + 64) + list(text.labels)])
    output = module.language_model(inputs_embeds=torch.cat([before, h, after], dim=1), labels=labels)
    assert module(batch)[0].item() == pytest.approx(output.loss.item() * one.loss_terms, rel=1e-6)


def test_an_untrained_zero_output_loses_one_plus_the_variance() -> None:
    """With a velocity of 0 the mean loss is E‖ε − x‖² = E[ε²] + E[x²], whatever time was drawn."""
    torch.manual_seed(0)
    module = openuni.build().double()
    with torch.no_grad():
        for parameter in module.transformer.get_submodule("proj_out").parameters():
            parameter.zero_()
    rows = rows_of(openuni, ["Pixel"], range(12))
    batch = batch_of(openuni, rows)
    assert batch.latents is not None
    mean = module(batch).sum().item() / sum(one.loss_terms for one in rows)
    assert mean == pytest.approx(1 + batch.latents.square().mean().item(), rel=0.03)


def test_images_change_openunis_losses(module: OpenUni) -> None:
    batch = batch_of(openuni, rows_of(openuni, ["Understanding", "Depth"], [0]))
    assert batch.features is not None
    with torch.no_grad():
        right, other = module(batch), module(replace(batch, features=batch.features.flip(1)))
    assert (right != other).all()


def test_frozen_parts_run_once_for_each_image_and_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four objectives about two images, twice: tiles, sources and targets are each computed once."""
    openuni = family()
    seen: list[int] = []
    openuni.tower.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    encoded: list[int] = []
    encode = openuni.codec.encode

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(openuni.codec, "encode", counted)
    tasks = {number: {name: task(name, number) for name in ALL} for number in (0, 1)}
    # the samples of one image share its array, as the data set gives them
    rows = []
    for number, by_name in tasks.items():
        image = by_name["Pixel"].sample
        rows += [
            row(openuni, name, number, Task(image, asked.prompt, asked.answer, map=asked.map))
            for name, asked in by_name.items()
        ]
    batch = batch_of(openuni, [*rows, *rows])
    assert seen == [2, 2]  # two tiles, then two squares
    assert encoded == [1] * 6  # pixel, depth and segmentation of two images
    assert (len(batch.squares), len(batch.pictures)) == (2, 6)


@pytest.mark.parametrize(
    ("objectives", "trained"),
    [
        (("Understanding",), ("lmm.",)),
        (("Pixel",), ("meta_queries", "connector.", "projector.", "transformer.")),
        (ALL, ("lmm.", "meta_queries", "connector.", "projector.", "transformer.")),
    ],
)
def test_each_method_trains_its_own_parts_of_openuni(
    objectives: tuple[str, ...], trained: tuple[str, ...], module: OpenUni
) -> None:
    frozen = openuni.frozen([objective(name) for name in objectives])
    names = {name for name, _ in module.named_parameters()}
    assert names - frozen == {name for name in names if name.startswith(trained)}
    found = gradients(module, module(batch_of(openuni, rows_of(openuni, objectives, [0]))).sum())
    assert names - frozen <= {name for name, gradient in found.items() if gradient.any()}


def test_openunis_matrices_decay_and_vectors_do_not(module: OpenUni) -> None:
    decayed = {name for name, parameter in module.named_parameters() if openuni.decays(name, parameter)}
    assert {"meta_queries", "projector.weight", "transformer.scale_shift_table"} <= decayed
    assert not {"projector.bias", "lmm.language_model.model.norm.weight", "transformer.caption_norm.weight"} & decayed


def test_openunis_draws_depend_on_the_row_and_on_nothing_else() -> None:
    alone = batch_of(openuni, rows_of(openuni, ["Depth"], [5]))
    among = batch_of(openuni, rows_of(openuni, ["Pixel", "Depth"], [5, 6]))
    assert torch.equal(among.noise[2], alone.noise[0]) and among.timesteps[2] == alone.timesteps[0]
    assert not torch.equal(among.noise[0], alone.noise[0])
    many = openuni.collate(rows_of(openuni, ["Depth"], range(200)), rng_for)
    assert many.timesteps.min() >= 1 and many.timesteps.max() <= 1000
    assert many.timesteps.mean().item() == pytest.approx(500.5, abs=80)
    torch.testing.assert_close(many.sigmas, many.timesteps.double() / 1000)


def test_an_openuni_rows_loss_terms_are_those_that_its_batch_sums() -> None:
    rows = rows_of(openuni, ALL, [0, 1])
    batch = openuni.collate(rows, rng_for)
    counted = list(batch.labels_per_row)
    for index in batch.target_rows:
        counted[index] += openuni.config.latent_terms
    assert counted == [one.loss_terms for one in rows]


def test_a_preview_shows_what_an_openuni_row_reads_and_learns() -> None:
    rows = [*rows_of(openuni, ["Understanding", "Pixel"], [2]), row(openuni, "Depth", 3, task("Depth", 3, image=False))]
    answering, pixel, from_text = openuni.preview(batch_of(openuni, rows, torch.float32))
    square = squash(picture(2), 32)
    assert answering[0] is not None and (answering[0] == square).all() and answering[1] is None
    assert pixel[0] is not None and pixel[1] is not None
    assert abs(pixel[1].astype(int) - square).max() <= 1
    assert from_text[0] is None and from_text[1] is not None
    depth = find_map("depth").target(task("Depth", 3).sample, 32)
    assert abs(from_text[1].astype(int) - depth).max() <= 1
