"""What holds of each built-in family alike: rows in one batch, what is frozen, autocast, answers, generated images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models import harmon_rows, openuni_rows, showo_rows
from tests.models.rows import ALL, assert_equal_gradients, gradients, perturbed, picture, rng_for, task
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
from unimrg_trainer.objectives.registry import objective


@dataclass(frozen=True)
class Kind:
    """A family at its small size."""

    rows: ModuleType
    """Its `rows_of` and `batch_of`."""
    open: Callable[..., Any]
    """(settings for generating) → family."""
    head: str
    """Name of the module that scores tokens."""
    left: Callable[[Any], list[int]]
    """Token ids of the answer `left`, its end included."""
    few: dict[str, int]
    """Settings that take two rounds to generate an image."""
    unguided: str
    """The guidance that is none."""


KINDS = {
    "Harmon": Kind(
        harmon_rows,
        harmon_rows.family,
        "llm.lm_head",
        lambda one: [one.tokenizer.encode("left")[0], one.tokenizer.turn_end],
        {"steps": 2, "textSteps": 2, "diffusionSteps": 3},
        "1",
    ),
    "OpenUni": Kind(
        openuni_rows,
        openuni_rows.family,
        "language_model.lm_head",
        # 769 is behind the vocabulary
        lambda one: [one.tokenizer.encode("left")[0], 769, one.tokenizer.turn_end],
        {"steps": 2},
        "1",
    ),
    "Show-o with CLIP": Kind(
        showo_rows,
        showo_rows.family,
        "showo.lm_head",
        lambda one: [*one.tokenizer.encode(" left"), one.template.text_end],
        {"steps": 2},
        "0",
    ),
    "Show-o with codes": Kind(
        showo_rows,
        partial(showo_rows.family, showo_rows.CODES),
        "showo.lm_head",
        lambda one: [*one.tokenizer.encode(" left"), one.template.text_end],
        {"steps": 2},
        "0",
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def test_one_forward_equals_one_forward_per_row(kind: Kind) -> None:
    family = kind.open()
    module, rows = perturbed(family), kind.rows.rows_of(family, ALL, [0, 1])
    weights = torch.linspace(0.3, 2.0, len(rows), dtype=torch.float64)
    sums = module(kind.rows.batch_of(family, rows))
    together = gradients(module, (sums * weights).sum())
    alone = torch.cat([module(kind.rows.batch_of(family, [row])) for row in rows])
    torch.testing.assert_close(sums, alone, rtol=1e-10, atol=0)
    assert_equal_gradients(together, gradients(module, (alone * weights).sum()))


def test_rows_without_an_image_have_losses_and_change_no_others(kind: Kind) -> None:
    """Text alone, and an image generated from its prompt alone: there is no picture that they could read."""
    family = kind.open()
    module = perturbed(family)
    wanted = [("Understanding", task("Understanding", 0, image=False)), ("Depth", task("Depth", 1, image=False))]
    rows = [row for number, (name, one) in enumerate(wanted) for row in family.plan(name, [(number, one)], rng_for)]
    with torch.no_grad():
        sums = module(kind.rows.batch_of(family, rows))
        among = module(kind.rows.batch_of(family, [*kind.rows.rows_of(family, ALL, [4]), *rows]))
        text_alone = module(kind.rows.batch_of(family, rows[:1]))
    assert sums.isfinite().all() and (sums > 0).all()
    torch.testing.assert_close(among[-2:], sums, rtol=1e-10, atol=0)
    torch.testing.assert_close(text_alone, sums[:1], rtol=1e-10, atol=0)


@pytest.mark.parametrize("objectives", [("Understanding",), ("Pixel",), ALL, ("Understanding", "Depth")])
@pytest.mark.parametrize("name", [name for name in KINDS if name != "OpenUni"])  # it freezes more
def test_what_is_frozen_is_what_no_gradient_reaches(name: str, objectives: tuple[str, ...]) -> None:
    kind = KINDS[name]
    family = kind.open()
    module = perturbed(family)
    found = gradients(module, module(kind.rows.batch_of(family, kind.rows.rows_of(family, objectives, [0, 1]))).sum())
    unreached = dict(module.named_parameters()).keys() - {name for name, gradient in found.items() if gradient.any()}
    assert unreached == family.frozen([objective(name) for name in objectives])


def test_bfloat16_autocast_keeps_losses_in_float32(kind: Kind) -> None:
    family = kind.open()
    module = perturbed(family, torch.float32)
    batch = kind.rows.batch_of(family, kind.rows.rows_of(family, ALL, [0]), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        low = module(batch)
    low.sum().backward()
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, module(batch), rtol=0.05, atol=0)


def test_an_answer_ends_with_its_turn(kind: Kind) -> None:
    """A head that gives one word and then always ends the turn: that word, however many tokens are allowed."""
    family = kind.open()
    module, scripted = perturbed(family), iter(kind.left(family))

    def replace_scores(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return functional.one_hot(torch.tensor([next(scripted)]), output.shape[-1]).double()

    module.get_submodule(kind.head).register_forward_hook(replace_scores)
    assert family.answer(module, [AnswerRequest("Why?", picture("x"))], max_new_tokens=9) == ["left"]


def test_batched_answers_are_those_one_by_one_but_for_ties(kind: Kind) -> None:
    """Questions of different length, with and without an image. Where a token differs, the scores of the two likeliest
    lie closer than 1e-4, which is the rounding of sums in another order."""
    family = kind.open()
    module = perturbed(family, torch.float32)
    requests = [
        AnswerRequest(" and ".join(["what is that"] * (n % 5 + 1)), picture(f"{n}") if n % 4 else None)
        for n in range(24)
    ]
    scores: list[Tensor] = []
    module.get_submodule(kind.head).register_forward_hook(lambda module, given, output: scores.append(output))
    together = family.answer(module, requests, max_new_tokens=12)
    in_batch, ties = [step.view(len(requests), -1).argmax(-1) for step in scores], 0
    for row, request in enumerate(requests):
        scores.clear()
        alone = family.answer(module, [request], max_new_tokens=12)
        pairs = zip(scores, in_batch, strict=False)
        differs = next((step.flatten() for step, batch in pairs if step.argmax() != batch[row]), None)
        assert (alone == [together[row]]) == (differs is None)
        if differs is not None:
            first, second = differs.topk(2).values.tolist()
            assert first - second < 1e-4, f"{request.prompt}: the scores are {first} and {second}"
            ties += 1
    assert ties <= 1 and len(set(together)) > 3


def test_a_generated_image_does_not_depend_on_its_batch(kind: Kind) -> None:
    """Prompts of different length, with an image and without, together and apart."""
    family = kind.open(**kind.few | {"steps": 3}, guidance="2")
    module = perturbed(family).eval()
    requests = [
        GenerateRequest("Make it.", seed=9, row=0, image=picture("x")),
        GenerateRequest("Make it again, but in another colour.", seed=9, row=1, image=picture("y")),
        GenerateRequest("A red circle.", seed=9, row=2),
    ]

    def made(chosen: list[GenerateRequest]) -> Tensor:
        with family._inference(module) as inference:
            found: Tensor = inference.generate(chosen, family.sampling, lambda done, total: None)
            return found

    together = made(requests)
    apart = torch.cat([made([requests[1]]), made([requests[2], requests[0]])])[[2, 0, 1]]
    torch.testing.assert_close(together, apart, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("image", [picture("x"), None], ids=["from an image", "from text alone"])
def test_an_image_comes_out_and_the_module_is_left_as_it_was(
    kind: Kind, guided: bool, image: np.ndarray | None
) -> None:
    family = kind.open(**kind.few, guidance="3" if guided else kind.unguided)
    module = perturbed(family, torch.float32).train()
    rounds: list[tuple[int, int]] = []
    made = [
        family.generate(
            module,
            [GenerateRequest("Make it.", seed=seed, row=row, image=image) for row in (0, 1)],
            on_round=lambda done, total: rounds.append((done, total)),
        )
        for seed in (1, 1, 2)
    ]
    size = family.config.image_size
    assert rounds == [(0, 2), (1, 2)] * 3
    assert all(one.shape == (size, size, 3) and one.dtype == np.uint8 for images in made for one in images)
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2]) and not np.array_equal(made[0][0], made[0][1])
    assert module.training
    with pytest.raises(ValueError, match=f"{size}×{size}"):
        family.generate(module, [GenerateRequest("Make it.", seed=1, row=0, size=48)])


@pytest.mark.parametrize(
    ("name", "variant", "files"),
    [
        ("harmon", "1.5B", ["kl16.safetensors", "qwen2.5-tokenizer.json"]),
        ("openuni", "B-512", ["internvl3-1b-vision.safetensors", "dc-ae.safetensors", "internvl3-tokenizer.json"]),
        ("openuni", "L-512", ["internvl3-2b-vision.safetensors", "dc-ae.safetensors", "internvl3-tokenizer.json"]),
        ("showo", "VQ-512", ["phi-1.5-tokenizer.json", "magvitv2.safetensors"]),
        ("showo", "CLIP-256",
         ["phi-1.5-tokenizer.json", "magvitv2.safetensors", "clip-vit-large-patch14-336.safetensors"]),
    ],
)  # fmt: skip
def test_files_that_a_size_needs_are_asked_for_by_name(
    tmp_path: Path, name: str, variant: str, files: list[str]
) -> None:
    assert not find_family(name, {"variant": "Tiny"}).needed_files()
    family = find_family(name, {"variant": variant})
    for file in files:
        with pytest.raises(UserError, match=rf"{file} is missing") as error:
            [asset.find(tmp_path) for asset in family.needed_files()]
        assert error.value.exit_code is ExitCode.INPUT_MISSING and error.value.remedy
        (tmp_path / file).touch()
    [asset.find(tmp_path) for asset in family.needed_files()]
