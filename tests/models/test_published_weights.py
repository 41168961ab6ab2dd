"""Published files become the model's weights and go back byte for byte; what does not fit is named, nothing is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.sizes.harmon import Kl16Config, config_of, tiny
from unimrg_trainer.models.harmon.kl16 import Kl16
from unimrg_trainer.models.harmon.weights import layouts
from unimrg_trainer.models.published import export_weights, import_weights
from unimrg_trainer.models.registry import find_family
from unimrg_trainer.models.weights import Layout

HEAD, EMBEDDING = "llm.lm_head.weight", "llm.model.embed_tokens.weight"
(MODEL,) = layouts(tiny())


def published(layout: Layout) -> dict[str, Tensor]:
    """Random tensors under their published names, tied copies included."""
    tensors = {layout.theirs(name): torch.randn_like(tensor) for name, tensor in layout.build().state_dict().items()}
    return tensors | {copy: tensors[original].clone() for copy, original in layout.copies}


def same_bytes(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].contiguous().view(torch.uint8).equal(other[name].contiguous().view(torch.uint8))
        for name in one
    )


@pytest.mark.parametrize("family", ["harmon", "openuni", "showo"])
def test_every_file_of_a_family_goes_in_and_out_unchanged(family: str, tmp_path: Path) -> None:
    for layout in find_family(family, {"variant": "Tiny"}).layouts():
        tensors = published(layout)
        source, imported, exported = (
            tmp_path / f"{layout.name}-{name}" for name in ("in.pth", "x.safetensors", "out.pth")
        )
        torch.save({layout.container: tensors} if layout.container else tensors, source)
        report = import_weights(layout, source, imported)
        module = layout.build()
        module.load_state_dict(load_file(imported), strict=not layout.copies)
        assert report.missing == () and report.matched == len(load_file(imported))
        assert export_weights(layout, imported, exported) == len(tensors)
        found: Any = torch.load(exported, weights_only=True)
        assert same_bytes(found[layout.container] if layout.container else found, tensors)


def test_a_file_with_a_container_goes_in_and_out_unchanged(tmp_path: Path) -> None:
    """As kl16.ckpt: tensors under a key, beside what its own training needed and Harmon does not."""
    published_kl16 = layouts(config_of("0.5B"))[1]
    small = Kl16Config(width=8, multipliers=(1, 2, 2), latent_channels=4, norm_groups=4)
    layout = replace(published_kl16, build=lambda: Kl16(small))
    tensors, source, exported = published(layout), tmp_path / "kl16.ckpt", tmp_path / "again.ckpt"
    torch.save({"model": {**tensors, "loss.logvar": torch.zeros(1)}, "epoch": 3}, source)
    assert import_weights(layout, source, tmp_path / "kl16.safetensors").unused == ("loss.logvar",)
    export_weights(layout, tmp_path / "kl16.safetensors", exported)
    assert same_bytes(torch.load(exported, weights_only=True)["model"], tensors)


def test_a_folder_of_files_is_one_model_and_keeps_its_types(tmp_path: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in published(MODEL).items()}
    names = sorted(tensors)
    folder = tmp_path / "Harmon"
    folder.mkdir()
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name].clone() for name in part}, folder / f"model-0000{number}.safetensors")
    (folder / "config.json").write_text("{}")
    import_weights(MODEL, folder, tmp_path / "weights.safetensors")
    imported = load_file(tmp_path / "weights.safetensors")
    assert same_bytes(imported, {name: tensors[name] for name in imported}) and imported.keys() == tensors.keys() - {
        HEAD
    }


def test_what_matched_is_missing_and_left_over_is_reported(tmp_path: Path) -> None:
    tensors = published(MODEL)
    del tensors["proj_in.0.bias"]
    torch.save({**tensors, "vae.encoder.conv_in.weight": torch.zeros(2)}, tmp_path / "some.pth")
    report = import_weights(MODEL, tmp_path / "some.pth", tmp_path / "w.safetensors", partial=True)
    assert report.matched == len(tensors) - 1
    assert report.missing == ("proj_in.0.bias",)
    assert set(report.unused) == {"vae.encoder.conv_in.weight", HEAD}
    assert "missing in the file: proj_in.0.bias" in "\n".join(report.lines())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"proj_in.0.bias": None}, "missing: proj_in.0.bias"),
        ({"surprise": torch.zeros(1)}, "unknown: surprise"),
        ({"proj_in.0.bias": torch.zeros(96, dtype=torch.int8)}, "no dense tensor like torch.float32, but torch.int8"),
        ({"proj_in.0.bias": torch.zeros(3)}, r"proj_in.0.bias is \[3\], not \[96\]"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_writes_nothing(
    change: dict[str, Tensor | None], named: str, tmp_path: Path
) -> None:
    tensors = {name: tensor for name, tensor in {**published(MODEL), **change}.items() if tensor is not None}
    torch.save(tensors, tmp_path / "wrong.pth")
    with pytest.raises(UserError, match=named) as error:
        import_weights(MODEL, tmp_path / "wrong.pth", tmp_path / "w.safetensors")
    assert error.value.exit_code is ExitCode.DATA_CORRUPT
    assert not (tmp_path / "w.safetensors").exists()


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", ["code", "text", "other"])
def test_no_file_runs_code_or_ends_in_a_traceback(content: str, tmp_path: Path) -> None:
    file, touched = tmp_path / "bad.pth", tmp_path / "touched"
    if content == "text":
        file.write_text("not weights")
    else:
        torch.save({"weights": _Harmful(touched)} if content == "code" else {"epoch": 3}, file)
    with pytest.raises(UserError, match=r"bad\.pth"):
        import_weights(MODEL, file, tmp_path / "w.safetensors")
    assert not touched.exists()


def test_files_that_hold_the_same_tensor_twice_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "twins"
    folder.mkdir()
    for name, tensors in (("a", published(MODEL)), ("a.fp16", {"proj_in.0.bias": torch.zeros(96).half()})):
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"a\.fp16\.safetensors .* both hold 1 tensors, e.g. proj_in.0.bias"):
        import_weights(MODEL, folder, tmp_path / "w.safetensors")


def test_tied_tensors_of_one_storage_are_written_apart(tmp_path: Path) -> None:
    tensors = published(MODEL)
    tensors["proj_in.2.bias"] = tensors["proj_in.0.bias"]
    torch.save(tensors, tmp_path / "tied.pth")
    import_weights(MODEL, tmp_path / "tied.pth", tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors")["proj_in.2.bias"].equal(tensors["proj_in.0.bias"])


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    weights, target = tmp_path / "w.safetensors", tmp_path / "folder.pth"
    torch.save(published(MODEL), tmp_path / "in.pth")
    import_weights(MODEL, tmp_path / "in.pth", weights)
    assert weights.stat().st_mode & 0o044, "others of the machine may read it, as the umask says"
    target.mkdir()
    with pytest.raises(UserError, match="cannot write"):
        export_weights(MODEL, weights, target)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read as weights"):
        export_weights(MODEL, weights, tmp_path / "out.pth")
    assert {path.name for path in tmp_path.iterdir()} == {"in.pth", "w.safetensors", "folder.pth"}


@pytest.mark.parametrize("surplus", [{}, {"surprise": torch.zeros(1)}])
def test_weights_of_another_model_are_not_exported(surplus: dict[str, Tensor], tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in MODEL.build().state_dict().items() if name != HEAD}
    if surplus:
        with pytest.raises(UserError, match="surprise"):
            export_weights(MODEL, weights | surplus, tmp_path / "out.pth")
    else:
        assert export_weights(MODEL, weights, tmp_path / "out.pth") == len(weights) + 1


def test_weights_of_another_size_are_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing, unknown or have another"):
        export_weights(MODEL, {EMBEDDING: torch.zeros(2, 2)}, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
