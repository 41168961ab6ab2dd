"""Published weights from a shell: import their files for a job, and export a run's weights in the published layout."""

from __future__ import annotations

from pathlib import Path

from unimrg_api.errors import UserError
from unimrg_api.spec_model import ModelSpec
from unimrg_cli.run_view import open_run
from unimrg_trainer.checkpoint.discover import read_weights
from unimrg_trainer.local_folders import cache_folder
from unimrg_trainer.models.common.assets import assets_folder
from unimrg_trainer.models.published import SAFETENSORS, export_weights, import_weights
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.models.weights import Layout


def import_published(model: str, source: Path, target: Path | None, name: str, *, partial: bool) -> list[str]:
    """Import one published file, or folder of files, and return what to tell: the report, the place, the licence.

    Raises UserError where the file does not fit, or where a model's weights have no target.
    """
    layout = _layout(model, name)
    if partial and layout.asset is not None:
        raise UserError(f"{layout.name} is needed as a whole", remedy="leave out --partial, and give the whole file")
    if target is None and layout.asset is not None:
        target = assets_folder(cache_folder(), model.partition("/")[0]) / layout.asset.file
    if target is None or target.suffix != SAFETENSORS:
        given = "no file to write to is given" if target is None else f"{target} is not the name of a safetensors file"
        raise UserError(given, remedy=f"name a file to write, as the last argument: weights{SAFETENSORS}")
    lines = import_weights(layout, source, target, partial=partial).lines()
    used = "found there by every job on this machine" if layout.asset else "name it in spec.model.init"
    return [*lines, f"written to {target}; {used}", *(_licence(model) if layout.asset is None else [])]


def export_published(model: str, source: str, target: Path, name: str) -> list[str]:
    """Export a safetensors file, or the newest commit of a run (its job, folder or URI); return what to tell."""
    layout = _layout(model, name)
    if source.endswith(SAFETENSORS):
        path = Path(source)
        if not path.is_file():
            raise UserError(f"{path} does not exist", remedy="correct the path")
        return [f"{export_weights(layout, path, target)} tensors written to {target}", *_licence(model)]
    commit, weights = read_weights(open_run(source))
    count = export_weights(layout, weights, target)
    return [f"{count} tensors of step {commit.step} written to {target}", *_licence(model)]


def _spec(model: str) -> ModelSpec:
    family, slash, variant = model.partition("/")
    known = [member for member in ModelSpec.members if member != "custom"]
    if family not in known or not slash:
        raise UserError(
            f"{model!r} names no model", remedy=f"write FAMILY/VARIANT, with a family of {', '.join(known)}"
        )
    try:
        return ModelSpec.model_validate({family: {"variant": variant}})
    except ValueError:
        raise UserError(
            f"{family} has no size {variant!r}", remedy=f"see variant of spec.model.{family} in docs/reference/job.md"
        ) from None


def _layout(model: str, name: str) -> Layout:
    layouts = {layout.name: layout for layout in find_family(*_spec(model).family()).layouts()}
    if name not in layouts:
        known = "; ".join(f"{layout.name} ({layout.published})" for layout in layouts.values())
        raise UserError(f"{model} has no file {name!r}", remedy=f"its files are: {known}")
    return layouts[name]


def _licence(model: str) -> list[str]:
    published = _spec(model).published
    return [] if published is None else [f"licence: {published.licence}"]
