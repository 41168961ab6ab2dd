"""A training state in a strategy-independent form: full-precision tensors by parameter name.

`model/<name>` the weights, `exp_avg/<name>` and `exp_avg_sq/<name>` AdamW's moments (docs/method/checkpoints.md). All
randomness and the data position follow from the step, so weights, moments and the step are the whole state.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.state import LocalState, Piece, StateReader
from unimrg_trainer.checkpoint.writer import shares

MOMENTS = ("exp_avg", "exp_avg_sq")


def export_state(module: nn.Module, optimizer: torch.optim.AdamW, step: int) -> LocalState:
    """Copy this rank's share of weights and moments to the host; frozen parameters too: a checkpoint is a whole model.

    Every rank holds all of them; whole tensors are dealt by size.
    """
    tensors = {}
    for name, parameter in module.named_parameters():
        tensors[f"model/{name}"] = parameter.detach()
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": state[moment].detach() for moment in MOMENTS if moment in state}
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    own = shares({name: tensor.nbytes for name, tensor in tensors.items()}, world_size)[rank]
    copies = {name: tensors[name].to("cpu", copy=True) for name in own}
    return LocalState(step, [Piece(name, tuple(copy.shape), 0, copy.reshape(-1)) for name, copy in copies.items()])


@torch.no_grad()
def import_weights(module: nn.Module, reader: StateReader) -> None:
    """Overwrite every parameter of `module` with the checkpoint's weights.

    Raises UserError if they do not fit the model, e.g. after a change of the software or of the family.
    """
    check_same_model(module, reader)
    for name, parameter in module.named_parameters():
        parameter.copy_(reader.read(f"model/{name}").view(parameter.shape))


def check_same_model(module: nn.Module, reader: StateReader) -> None:
    """Raise UserError if names or shapes of the checkpoint's weights are not the module's."""
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    found = {
        name.removeprefix("model/"): info.shape for name, info in reader.tensors.items() if name.startswith("model/")
    }
    different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if different:
        name = different[0]
        raise UserError(
            f"the checkpoint of step {reader.step} does not fit the model: {len(different)} tensors differ, e.g. {name}"
            f" is {found.get(name, 'absent')} there and {wanted.get(name, 'absent')} here",
            remedy="resume with the version of unimrg that wrote it, or give another spec.checkpoint.uri",
        )


@torch.no_grad()
def import_state(module: nn.Module, optimizer: torch.optim.AdamW, reader: StateReader) -> None:
    """Overwrite weights, moments and AdamW's step count."""
    import_weights(module, reader)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        optimizer.state[parameter] = {
            # on the parameter's device: the fused kernel reads it there
            "step": torch.tensor(reader.step, dtype=torch.float32, device=parameter.device),
            **{
                moment: reader.read(f"{moment}/{name}").view(parameter.shape).to(parameter, copy=True)
                for moment in MOMENTS
            },
        }
