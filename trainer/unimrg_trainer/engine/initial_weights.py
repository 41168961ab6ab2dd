"""Initial weights: random from the seed, or read from published safetensors files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.job_stores import find_weights
from unimrg_trainer.models.base import Family
from unimrg_trainer.rng import key_digest
from unimrg_trainer.storage.copies import local_file
from unimrg_trainer.storage.local import explained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedWeights:
    """Location of published weights: an absolute URI, how its store is reached, and the folder for local copies."""

    uri: str
    storage: StorageSpec
    cache: Path


def build_initial(family: Family, seed: int, published: PublishedWeights | None, dtype: torch.dtype) -> nn.Module:
    """Build the family's module with the weights that training starts from."""
    torch.manual_seed(key_digest(seed, "initial-weights") % 2**63)
    module = family.build().to(dtype)
    if published is not None:
        load_published(module, published)
    return module


@torch.no_grad()
def load_published(module: nn.Module, published: PublishedWeights) -> None:
    """Overwrite the module's weights with those of the published safetensors file(s): one, or a folder of them.

    Names are the module's own; every tensor must exist with its shape, but duplicates of tied ones may be missing.
    Raises UserError naming what is missing or has another shape.
    """
    uri = published.uri
    store, keys = find_weights(uri, published.storage)
    found: dict[str, Tensor] = {}
    for key in keys:
        path = local_file(store, key, published.cache)
        try:
            with explained("read", path):
                found |= load_file(path)
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
            remedy="choose the family and size of these weights in spec.model",
        )
    unused = sorted(set(found) - set(dict(module.named_parameters(remove_duplicate=False))))
    if unused:
        logger.warning("%d tensors in spec.model.init are ignored: not in the model, e.g. %s", len(unused), unused[0])
