"""Published weights in and out: published files → safetensors with our names, and back, byte for byte.

Published files are read without ever unpickling code (docs/families.md says whose they are).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.models.weights import Layout
from unimrg_trainer.storage.local import os_errors_as_storage_errors

SAFETENSORS = ".safetensors"
PICKLED = (".pth", ".pt", ".ckpt", ".bin")
SHOWN = 8
"""Names of tensors that are listed in a message."""


@dataclass(frozen=True)
class ImportReport:
    """What of a published file became the model's."""

    matched: int
    missing: tuple[str, ...]
    """Names in the model that the file has not."""
    unused: tuple[str, ...]
    """Published names that the model does not use, as the layout says."""
    bytes: int

    def lines(self) -> list[str]:
        """Return the report for people."""
        found = [f"{self.matched} tensors matched, {self.bytes / 2**20:.1f} MiB"]
        for what, names in (("missing in the file", self.missing), ("not used", self.unused)):
            if names:
                found.append(f"{len(names)} {what}: {_listed(names)}")
        return found


def import_weights(layout: Layout, source: Path, target: Path, *, partial: bool = False) -> ImportReport:
    """Write what `source` holds of the layout's module to `target`, a safetensors file with the module's names.

    `source` is a file (.safetensors, .pth, .pt, .ckpt, .bin) or a folder of such files. Raises UserError, and writes
    nothing, where a tensor is unknown or has another shape, or one is missing (unless `partial`).
    """
    wanted = _tensors(layout)
    found: dict[str, Tensor] = {}
    unused, unknown, wrong = [], [], []
    for published, tensor in read_published(source, layout.container).items():
        name = layout.ours(published)
        if name is None:
            unused.append(published)
        elif name not in wanted:
            unknown.append(published)
        elif (problem := _problem(tensor, wanted[name])) is not None:
            wrong.append(f"{published} is {problem}")
        else:
            found[name] = tensor
    missing = sorted(wanted.keys() - found.keys())
    problems = [f"{len(unknown)} tensors are unknown: {_listed(unknown)}"] if unknown else []
    problems += [f"{len(wrong)} tensors are not as they should be: {_listed(wrong)}"] if wrong else []
    absent = [name for name in missing if not wrong]  # else one that is wrong would be listed twice
    problems += [f"{len(absent)} tensors are missing: {_listed(absent)}"] if absent and not partial else []
    if problems or not found:
        raise UserError(
            f"{source} is not {layout.published}: {'; '.join(problems) or 'it holds none of its tensors'}",
            remedy="choose the family and size of these weights"
            + (
                ""
                if partial or problems != problems[-1:] or not missing
                else "; a file with a part of them needs --partial"
            ),
            exit_code=ExitCode.DATA_CORRUPT,
        )
    _write(target, lambda path: save_file(_separate(found), path))
    return ImportReport(len(found), tuple(missing), tuple(unused), sum(tensor.nbytes for tensor in found.values()))


def export_weights(layout: Layout, source: Path | Mapping[str, Tensor], target: Path) -> int:
    """Write weights with the module's names to `target` under their published names; return the number of tensors.

    `source` is a safetensors file, or the tensors. The suffix of `target` decides its format: .safetensors or .pth.
    Raises UserError where a tensor of the module is missing or has another shape.
    """
    tensors = _read_file(source, None) if isinstance(source, Path) else dict(source)
    wanted = _tensors(layout)
    copies = {layout.ours(copy) or copy for copy, _ in layout.copies}
    wrong = [name for name in wanted if name not in tensors or _problem(tensors[name], wanted[name]) is not None]
    wrong += [name for name in tensors if name not in wanted and name not in copies]
    if wrong:
        raise UserError(
            f"these weights are not those of this model: {len(wrong)} tensors are missing, unknown or have another "
            f"shape: {_listed(sorted(wrong))}",
            remedy="choose the family and size that they were trained with",
            exit_code=ExitCode.DATA_CORRUPT,
        )
    published = {layout.theirs(name): tensors[name] for name in wanted}
    published = _separate({**published, **{copy: published[original] for copy, original in layout.copies}})
    content = {layout.container: published} if layout.container else published
    _write(
        target, lambda path: save_file(published, path) if target.suffix == SAFETENSORS else torch.save(content, path)
    )
    return len(published)


def read_published(source: Path, container: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a published file, or of all files of a folder; no code in them is run.

    `container` is the key under which a pickled file holds them. Raises UserError for what is missing or no such file.
    """
    files = [source]
    if source.is_dir():
        stored = sorted(path for path in source.iterdir() if path.suffix == SAFETENSORS)
        files = stored or sorted(path for path in source.iterdir() if path.suffix in PICKLED)
    if not files or not all(path.is_file() for path in files):
        raise UserError(
            f"{source} is no file of weights, and no folder that holds some",
            remedy=f"give a file ({SAFETENSORS}, {', '.join(PICKLED)}), or a folder of them",
            exit_code=ExitCode.INPUT_MISSING,
        )
    found: dict[str, Tensor] = {}
    places: dict[str, Path] = {}
    for path in files:
        content = _read_file(path, container)
        if twice := content.keys() & found.keys():
            name = min(twice)
            raise UserError(
                f"{places[name].name} and {path.name} in {source} both hold {len(twice)} tensors, e.g. {name}",
                remedy="keep the files of one type, e.g. delete the *.fp16.* ones, or give a single file",
                exit_code=ExitCode.DATA_CORRUPT,
            )
        found |= content
        places |= dict.fromkeys(content, path)
    return found


def _read_file(path: Path, container: str | None) -> dict[str, Tensor]:
    try:
        if path.suffix == SAFETENSORS:
            stored: dict[str, Tensor] = load_file(path)
            return stored
        # files of before torch 1.6 are no archives and cannot be mapped into memory
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except MemoryError:
        raise  # says nothing about the file
    except Exception as error:  # a damaged file makes the readers raise errors of many types
        raise UserError(
            f"{path} cannot be read as weights: {' '.join(str(error).split())[:300]}",
            remedy="get the file again; a file that needs code to be read is never loaded",
            exit_code=ExitCode.DATA_CORRUPT,
        ) from error
    for key in (container, "state_dict"):
        content = content[key] if key and isinstance(content, dict) and key in content else content
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(
            f"{path} holds something else than tensors by name",
            remedy="give the file of weights, not of a training",
            exit_code=ExitCode.DATA_CORRUPT,
        )
    return {str(name): tensor for name, tensor in content.items()}


def _problem(tensor: Tensor, wanted: Tensor) -> str | None:
    """Return what keeps a published tensor from being the model's; None if nothing does."""
    dense = tensor.layout is torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not dense or tensor.is_floating_point() != wanted.is_floating_point():
        return f"no dense tensor like {wanted.dtype}, but {tensor.dtype}, {tensor.layout}"
    return None if tensor.shape == wanted.shape else f"{list(tensor.shape)}, not {list(wanted.shape)}"


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors, none of which shares memory with another."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if place in seen else tensor.contiguous()
        seen.add(place)
    return separate


def _write(target: Path, write: Callable[[Path], None]) -> None:
    """Write a file as a whole or not at all. Raises StorageError."""
    written = target.with_name(f".partial-{os.getpid()}-{target.name}")
    with os_errors_as_storage_errors("write", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            written.touch()
            mode = written.stat().st_mode  # as the umask says; safetensors makes a file for its owner alone
            try:
                write(written)
            except (RuntimeError, SafetensorError) as error:
                raise OSError(f"{error}") from error
            written.chmod(mode)
            written.replace(target)
        finally:
            written.unlink(missing_ok=True)


def _tensors(layout: Layout) -> dict[str, Tensor]:
    """Tensors of the layout's module on the meta device by name; of tied ones, the first name only."""
    with torch.device("meta"):
        module = layout.build()
    copies = {layout.ours(copy) or copy for copy, _ in layout.copies}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in copies}


def _listed(names: Mapping[str, Any] | list[str] | tuple[str, ...]) -> str:
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
