"""A training state in a strategy-independent form: full-precision tensors by parameter name.

`model/<name>` the weights, `exp_avg/<name>` and `exp_avg_sq/<name>` AdamW's moments (docs/method/checkpoints.md). All
randomness and the data position follow from the step, so weights, moments and the step are the whole state.
"""

from __future__ import annotations

import torch
from torch import nn

from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.state import TrainingState

MOMENTS = ("exp_avg", "exp_avg_sq")


def export_state(module: nn.Module, optimizer: torch.optim.AdamW, step: int) -> TrainingState:
    """Copy weights and moments to the host, frozen parameters included: a checkpoint is a whole model."""
    tensors = {}
    for name, parameter in module.named_parameters():
        tensors[f"model/{name}"] = parameter.detach().to("cpu", copy=True)
        state = optimizer.state.get(parameter, {})
        for moment in MOMENTS:
            if moment in state:
                tensors[f"{moment}/{name}"] = state[moment].detach().to("cpu", copy=True)
    return TrainingState(step=step, tensors=tensors)


@torch.no_grad()
def import_weights(module: nn.Module, state: TrainingState) -> None:
    """Overwrite every parameter of `module` with the state's weights.

    Raises UserError if they do not fit the model, e.g. after a change of the software or of the family.
    """
    check_same_model(module, state)
    for name, parameter in module.named_parameters():
        parameter.copy_(state.tensors[f"model/{name}"])


def check_same_model(module: nn.Module, state: TrainingState) -> None:
    """Raise UserError if names or shapes of the state's weights are not the module's."""
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    found = {
        name.removeprefix("model/"): tuple(tensor.shape)
        for name, tensor in state.tensors.items()
        if name.startswith("model/")
    }
    different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if different:
        name = different[0]
        raise UserError(
            f"the checkpoint of step {state.step} does not fit the model: {len(different)} tensors differ, e.g. {name} "
            f"is {found.get(name, 'absent')} there and {wanted.get(name, 'absent')} here",
            remedy="resume with the version of unimrg that wrote it, or give another spec.checkpoint.uri",
        )


@torch.no_grad()
def import_state(module: nn.Module, optimizer: torch.optim.AdamW, state: TrainingState) -> None:
    """Overwrite weights, moments and AdamW's step count."""
    import_weights(module, state)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        optimizer.state[parameter] = {
            # on the parameter's device: the fused kernel reads it there
            "step": torch.tensor(state.step, dtype=torch.float32, device=parameter.device),
            **{moment: state.tensors[f"{moment}/{name}"].to(parameter, copy=True) for moment in MOMENTS},
        }
