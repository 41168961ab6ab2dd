"""Initial weights: random from the seed, or read from published safetensors files."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
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
from unimrg_trainer.storage.local import os_errors_as_storage_errors

logger = logging.getLogger(__name__)

HEADER_BYTES = 100 << 20
"""Maximum header size that the safetensors library accepts."""

_TensorInfo = tuple[list[int], str, bool]
"""Shape, type, and whether that is a floating-point one."""


@dataclass(frozen=True)
class WeightsSource:
    """Location of published weights: an absolute URI, how its store is reached, and the folder for local copies."""

    uri: str
    storage: StorageSpec
    cache: Path
    on_read: Callable[[], None] = lambda: None
    """Called with every piece that is fetched."""


def build_initial(family: Family, seed: int, published: WeightsSource | None, dtype: torch.dtype) -> nn.Module:
    """Build the family's module with the weights that training starts from."""
    torch.manual_seed(key_digest(seed, "initial-weights") % 2**63)
    module = family.build().to(dtype)
    if published is not None:
        load_published(module, published)
    return module


@torch.no_grad()
def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters, names included."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)};".encode())
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def load_published(module: nn.Module, published: WeightsSource) -> None:
    """Overwrite the module's weights with those of the published safetensors file(s): one, or a folder of them.

    Names are the module's own; every tensor must exist with its shape, but duplicates of tied ones may be missing.
    Raises UserError naming what is missing or has another shape.
    """
    uri = published.uri
    store, keys = find_weights(uri, published.storage)
    found: dict[str, Tensor] = {}
    for key in keys:
        path = local_file(store, key, published.cache, published.on_read)
        try:
            with os_errors_as_storage_errors("read", path):
                content = load_file(path)
                if twice := content.keys() & found.keys():
                    logger.info("%s replaces %d tensors of the files before it", key, len(twice))
                found |= content
        except SafetensorError as error:
            raise UserError(
                f"spec.model.init: {key} is not a safetensors file: {error}",
                remedy="export the weights as safetensors",
                exit_code=ExitCode.DATA_CORRUPT,
            ) from error
    infos = {
        name: (list(tensor.shape), str(tensor.dtype), tensor.is_floating_point()) for name, tensor in found.items()
    }
    _check_fit(module, infos, uri)
    for name, parameter in module.named_parameters():
        parameter.copy_(found[name])
    unused = sorted(set(found) - set(dict(module.named_parameters(remove_duplicate=False))))
    if unused:
        logger.warning("%d tensors in spec.model.init are ignored: not in the model, e.g. %s", len(unused), unused[0])


def check_headers(family: Family, uri: str, storage: StorageSpec) -> None:
    """Check from the file headers alone that the weights fit the family's module.

    Raises UserError as `load_published` does.
    """
    store, keys = find_weights(uri, storage)
    infos: dict[str, _TensorInfo] = {}
    for key in keys:
        length = int.from_bytes(store.get(key, 0, 8), "little")
        try:
            header = json.loads(store.get(key, 8, length) if length <= HEADER_BYTES else b"")
            header.pop("__metadata__", None)
            infos |= {name: (entry["shape"], entry["dtype"], "F" in entry["dtype"]) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"spec.model.init: {key} is not a safetensors file",
                remedy="export the weights as safetensors",
                exit_code=ExitCode.DATA_CORRUPT,
            ) from error
    with torch.device("meta"):
        _check_fit(family.build(), infos, uri)


def _check_fit(module: nn.Module, found: Mapping[str, _TensorInfo], uri: str) -> None:
    """Raise UserError unless every parameter of the module is there with its shape, in floating point."""
    problems = []
    for name, parameter in module.named_parameters():
        shape, dtype, floating = found.get(name, (None, "", False))
        if shape is None:
            problems.append(f"{name} is missing")
        elif shape != list(parameter.shape) or not floating:
            problems.append(f"{name} is {dtype} {shape}, not float {list(parameter.shape)}")
    if problems:
        raise UserError(
            f"spec.model.init: {Path(uri).name} does not fit the model: {'; '.join(problems[:5])}"
            + (f" and {len(problems) - 5} more" if len(problems) > 5 else ""),
            remedy="choose the family and size of these weights in spec.model",
        )
