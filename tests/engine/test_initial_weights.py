"""Weights that are read from published files, and the refusals where they do not fit."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from tests.support.one_step import TINY
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.engine.initial_weights import WeightsSource, build_initial, load_published
from unimrg_trainer.models.registry import find_family


class Tied(nn.Module):
    """An embedding whose table is the head's too, and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.table.weight
        self.scale = nn.Parameter(torch.zeros(4))


def published() -> dict[str, Tensor]:
    return {"table.weight": torch.arange(6.0).reshape(3, 2) + 0.5, "scale": torch.tensor([1.0, -2.0, 3.0, 0.25])}


def assert_holds(module: nn.Module, expected: dict[str, Tensor]) -> None:
    found = dict(module.named_parameters())
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].detach(), tensor.to(found[name].dtype)), name


def at(uri: str) -> WeightsSource:
    return WeightsSource(uri, StorageSpec(), Path("/nothing/is/copied"))


def refusal(module: nn.Module, uri: str) -> UserError:
    with pytest.raises(UserError) as caught:
        load_published(module, at(uri))
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "stored"), [("model.safetensors", torch.float32), ("my wëights.safetensors", torch.bfloat16)]
)
def test_one_file_overwrites_every_weight(tmp_path: Path, dtype: torch.dtype, name: str, stored: torch.dtype) -> None:
    save_file({key: tensor.to(stored) for key, tensor in published().items()}, tmp_path / name)
    module = Tied().to(dtype)
    load_published(module, at((tmp_path / name).as_uri()))
    assert_holds(module, published())
    assert {parameter.dtype for parameter in module.parameters()} == {dtype}
    assert module.head.weight is module.table.weight


def test_a_folder_of_several_files_overwrites_every_weight(tmp_path: Path) -> None:
    for index, (name, tensor) in enumerate(published().items()):
        save_file({name: tensor}, tmp_path / f"model-{index}.safetensors")
    (tmp_path / "README.md").write_text("not weights")
    module = Tied()
    load_published(module, at(tmp_path.as_uri()))
    assert_holds(module, published())


@pytest.mark.parametrize(
    ("content", "named", "code"),
    [
        (save({"table.weight": published()["table.weight"]}), "scale is missing", ExitCode.CONFIGURATION),
        (save({**published(), "scale": torch.zeros(5)}), "scale is torch.float32 [5], not", ExitCode.CONFIGURATION),
        (b"PK\x03\x04 a pickle, renamed", "model.safetensors", ExitCode.DATA_CORRUPT),
        (save(published())[:-3], "model.safetensors", ExitCode.DATA_CORRUPT),
        (None, "/weights", ExitCode.INPUT_MISSING),
    ],
    ids=["too few tensors", "another shape", "another format", "cut short", "nothing there"],
)
def test_files_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, content: bytes | None, named: str, code: ExitCode
) -> None:
    """As a folder, which also holds files of other kinds, and as one file."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "harmon.pth").write_bytes(b"")
    if content is not None:
        (folder / "model.safetensors").write_bytes(content)
    for uri in (folder.as_uri(), f"{folder.as_uri()}/model.safetensors"):
        error = refusal(Tied(), uri)
        assert named in error.message and "spec.model.init" in error.message
        assert error.exit_code is code


def test_a_folder_that_is_not_there_is_a_missing_input(tmp_path: Path) -> None:
    assert refusal(Tied(), f"{tmp_path.as_uri()}/weights").exit_code is ExitCode.INPUT_MISSING


def test_tensors_that_the_model_has_not_only_warn_and_a_tied_copy_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tied = {**published(), "head.weight": published()["table.weight"].clone()}
    save_file(tied, tmp_path / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        load_published(Tied(), at(tmp_path.as_uri()))
    assert not caplog.records
    save_file({**tied, "vision.patch": torch.zeros(1)}, tmp_path / "model.safetensors")
    module = Tied()
    with caplog.at_level(logging.WARNING):
        load_published(module, at(tmp_path.as_uri()))
    assert "vision.patch" in caplog.text
    assert_holds(module, published())


def test_without_files_the_weights_are_the_seeds_whatever_was_drawn_before(tmp_path: Path) -> None:
    family = find_family("harmon", TINY)
    first = build_initial(family, 5, None, torch.float64)
    torch.rand(7)
    assert_holds(build_initial(family, 5, None, torch.float64), dict(first.named_parameters()))
    assert {parameter.dtype for parameter in first.parameters()} == {torch.float64}
    other = build_initial(family, 6, None, torch.float64)
    table = "llm.model.embed_tokens.weight"
    assert not torch.equal(other.get_parameter(table), first.get_parameter(table))

    save_file({name: p.detach() + 1 for name, p in first.named_parameters()}, tmp_path / "harmon.safetensors")
    read = build_initial(family, 6, at(tmp_path.as_uri()), torch.float64)
    assert_holds(read, {name: p.detach() + 1 for name, p in first.named_parameters()})
