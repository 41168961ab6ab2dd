"""Parts of a model: every parameter is in one, and a job may freeze it or give it a learning rate of its own."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from tests.support.local_jobs import prepare_data, tiny_job
from tests.support.one_step import FAMILIES, TINY, tiny_family
from tests.support.train_stage import newest, run_stage
from unimrg_api.errors import UserError
from unimrg_api.spec_model import FamilySpec, HarmonSpec, ModelSpec, OpenUniSpec, ShowOSpec
from unimrg_api.spec_training import OptimizerSpec, PartSpec
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.engine.initial_weights import build_initial
from unimrg_trainer.engine.optimizer import build_optimizer, set_learning_rate
from unimrg_trainer.engine.parts import part_of, parts_of, parts_table, rate_scales
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.storage import LocalStore

SPECS = {"harmon": HarmonSpec, "openuni": OpenUniSpec, "showo": ShowOSpec}
MEMBERS = {spec: name for name, spec in SPECS.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_part_that_a_job_can_name_has_parameters_and_none_is_left_over(name: str) -> None:
    family = tiny_family(name)
    assert tuple(family.parts()) == SPECS[name].parts
    with torch.device("meta"):
        names = [name for name, _ in family.build().named_parameters()]
    assert {part_of(family, parameter) for parameter in names} == set(SPECS[name].parts)


@pytest.mark.parametrize("wanted", [["Understanding"], ["Pixel"], ["Understanding", "Depth"]])
@pytest.mark.parametrize(
    "spec",
    [HarmonSpec(variant="Tiny"), OpenUniSpec(variant="Tiny"), ShowOSpec(variant="Tiny"), ShowOSpec(variant="VQ-256")],
)
def test_a_job_says_which_parts_its_objectives_train(spec: FamilySpec, wanted: list[str]) -> None:
    family = find_family(*ModelSpec(**{MEMBERS[type(spec)]: spec}).family())
    with torch.device("meta"):
        module = family.build()
    parts = parts_of(module, family, [objective(name) for name in wanted], [])
    said = spec.trained_parts(answers="Understanding" in wanted, maps=wanted != ["Understanding"])
    assert said == [part.name for part in parts if part.trained]


def test_the_parts_of_harmon_are_what_their_names_say() -> None:
    family = find_family("harmon", TINY)
    expected = {
        "mar.encoder_blocks.0.attn.qkv.weight": "Encoder",
        "mar.decoder_blocks.0.attn.qkv.weight": "Decoder",
        "mar.diffloss.net.x": "DiffusionHead",
        "proj_in.0.weight": "Projectors",
        "llm.model.embed_tokens.weight": "LanguageModel",
    }
    assert {name: part_of(family, name) for name in expected} == expected


def test_each_part_learns_at_its_share_of_the_rate() -> None:
    """AdamW's first step without decay moves every element by the learning rate, whatever its gradient."""
    family = tiny_family("showo")
    with torch.random.fork_rng():
        module = family.build()
    settings = [PartSpec(name="Projector", learning_rate_scale="0.25")]
    parts = parts_of(module, family, [objective("Pixel")], settings)
    optimizer = build_optimizer(
        module, OptimizerSpec(weight_decay="0", epsilon="1e-12"), family.decays, rate_scales(parts).__getitem__
    )
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    set_learning_rate(optimizer, 1e-2)
    optimizer.step()
    for name, parameter in module.named_parameters():
        wanted = 0.25e-2 if name.startswith("mm_projector") else 1e-2
        torch.testing.assert_close(before[name] - parameter, torch.full_like(parameter, wanted), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"Encodre": "1"}, "Encodre"), ({"LanguageModel": "0", "Projector": "0"}, "freezes everything")],
)
def test_a_part_that_is_not_there_or_a_model_without_training_is_refused(
    settings: dict[str, str], message: str
) -> None:
    family = tiny_family("showo")
    specs = [PartSpec(name=name, learning_rate_scale=scale) for name, scale in settings.items()]
    with pytest.raises(UserError, match=message) as caught:
        parts_of(family.build(), family, [objective("Pixel")], specs)
    assert caught.value.remedy


@pytest.mark.timeout(120)
def test_a_frozen_part_keeps_its_weights_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job, _ = tiny_job(
        tmp_path,
        objectives=[{"name": "Understanding", "weight": "1"}, {"name": "Depth", "weight": "1"}],
        training__parts=[{"name": "Encoder", "learningRateScale": "0"}],
        training__stopStep=1,
        training__precision="FP32",
    )
    prepare_data(job, tmp_path)
    with caplog.at_level(logging.INFO):
        run_stage(tmp_path, job, 1, monkeypatch)
    family = find_family("harmon", {"variant": "Tiny"})
    first = build_initial(family, job.spec.training.seed, None, torch.float32)
    state = newest(tmp_path / "run", job.training_digest(Dataset.open(LocalStore(tmp_path / "data"), "train").digest))
    for name, parameter in first.named_parameters():
        is_frozen = part_of(family, name) == "Encoder" or name.startswith("mar.class_emb")
        learns = name.startswith("llm.")  # where the head is still zero, gradients are too
        assert torch.equal(state.tensors[f"model/{name}"], parameter) or not is_frozen, name
        assert not (learns and torch.equal(state.tensors[f"model/{name}"], parameter)), name
        assert (f"exp_avg/{name}" in state.tensors) != is_frozen
    parts = parts_of(first, family, [objective("Understanding"), objective("Depth")], job.spec.training.parts)
    encoder = sum(p.numel() for name, p in first.named_parameters() if part_of(family, name) == "Encoder")
    assert f"{encoder:,}" in caplog.text and "frozen" in caplog.text
    assert parts_table(parts) in caplog.text
