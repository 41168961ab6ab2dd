"""Which of Harmon's parameters are decayed, against a list of names written by hand (docs/method/recipe.md)."""

from __future__ import annotations

from tests.support.one_step import TINY, freeze
from tests.support.published_recipe import DECAYED
from unimrg_api.spec_training import OptimizerSpec
from unimrg_trainer.engine.optimizer import build_optimizer, set_learning_rate
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.objectives.registry import objective


def test_the_published_names_decay_by_two_percent_and_no_others() -> None:
    family = find_family("harmon", TINY)
    module = family.build()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    optimizer = build_optimizer(module, OptimizerSpec(), family.decays)
    decay = {
        names[id(parameter)]: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]
    }
    assert decay == {name: 0.02 if DECAYED.fullmatch(name) else 0.0 for name in names.values()}


def test_every_trained_parameter_is_in_one_group_and_no_frozen_one_is() -> None:
    family = find_family("harmon", TINY)
    module = family.build()
    frozen = family.frozen([objective("Understanding")])
    assert frozen
    freeze(module, frozen)
    optimizer = build_optimizer(module, OptimizerSpec(), family.decays)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for name, p in module.named_parameters() if name not in frozen)


def test_numbers_of_the_job_reach_every_group() -> None:
    family = find_family("harmon", TINY)
    settings = OptimizerSpec.model_validate(
        {"beta1": "0.7", "beta2": "0.8", "epsilon": "1e-5", "weightDecay": "0.3", "learningRate": "1e-3"}
    )
    optimizer = build_optimizer(family.build(), settings, family.decays)
    set_learning_rate(optimizer, 0.25)
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["lr"]) == ((0.7, 0.8), 1e-5, 0.25)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3, 0.0}
