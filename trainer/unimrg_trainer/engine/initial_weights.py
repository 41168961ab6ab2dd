"""Where the first weights come from: drawn from the seed, or read from published safetensors files."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import unquote

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.models.base import Family
from unimrg_trainer.packing.address import digest_key
from unimrg_trainer.storage import open_store

logger = logging.getLogger(__name__)


def build_initial(family: Family, seed: int, init_uri: str | None, dtype: torch.dtype) -> nn.Module:
    """Build the family's module with the weights that training starts from: the same on every rank."""
    torch.manual_seed(digest_key(seed, "initial-weights") % 2**63)
    module = family.build().to(dtype)
    if init_uri is not None:
        load_published(module, init_uri)
    return module


@torch.no_grad()
def load_published(module: nn.Module, uri: str) -> None:
    """Overwrite the module's weights with those of the safetensors file(s) at `uri` (a file, or a folder of them).

    Names are the published ones (method.md §2); every tensor of the module must be there with its shape, tied copies
    (`llm.lm_head.weight`) excepted. Raises UserError naming what is missing or has another shape.
    """
    folder, _, quoted = uri.rpartition("/")
    name = unquote(quoted)  # a key, while the folder stays a URI
    store = open_store(folder if name.endswith(".safetensors") else uri)
    names = [name] if name.endswith(".safetensors") else [k for k, _ in store.list() if k.endswith(".safetensors")]
    if not names:
        raise UserError(
            f"spec.model.init: no safetensors file under {uri}",
            remedy="give a .safetensors file or a folder that holds some; convert .pth files first",
            exit_code=ExitCode.INPUT_MISSING,
        )
    found: dict[str, Tensor] = {}
    for key in names:
        try:
            found |= load_safetensors(store.get(key))
        except SafetensorError as error:
            raise UserError(
                f"spec.model.init: {key} is not a safetensors file: {error}",
                remedy="export the weights as safetensors",
                exit_code=ExitCode.DATA_CORRUPT,
            ) from error
    problems = []
    for name, parameter in module.named_parameters():
        tensor = found.get(name)
        if tensor is None:
            problems.append(f"{name} is missing")
        elif tensor.shape != parameter.shape:
            problems.append(f"{name} is {list(tensor.shape)}, not {list(parameter.shape)}")
        else:
            parameter.copy_(tensor)
    if problems:
        raise UserError(
            f"spec.model.init: {Path(uri).name} does not fit the model: {'; '.join(problems[:5])}"
            + (f" and {len(problems) - 5} more" if len(problems) > 5 else ""),
            remedy="spec.model.variant must be the size of the weights",
            exit_code=ExitCode.DATA_CORRUPT,
        )
    unused = sorted(set(found) - set(dict(module.named_parameters(remove_duplicate=False))))
    if unused:
        logger.warning("spec.model.init holds %d tensors that the model has not, e.g. %s", len(unused), unused[0])
