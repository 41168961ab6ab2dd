"""Published weights: which files a family reads and writes, and the names of their tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from unimrg_trainer.models.common.assets import Asset


def same_name(name: str) -> str:
    """Return the name as it is: the published one is ours."""
    return name


@dataclass(frozen=True)
class Layout:
    """One published file, or folder of files, and the module whose tensors it holds."""

    name: str
    """Name on the command line, e.g. `model` or `kl16`."""
    published: str
    """What the published file is called, e.g. `harmon_0.5b.pth`."""
    build: Callable[[], nn.Module]
    """Builds the module whose names and shapes are wanted; called on the meta device."""
    ours: Callable[[str], str | None] = same_name
    """Published name → name in the module; None: a tensor that we do not use."""
    theirs: Callable[[str], str] = same_name
    """Name in the module → published name."""
    container: str | None = None
    """Key of the published file under which the tensors lie, e.g. `model`; None: they are the file."""
    copies: tuple[tuple[str, str], ...] = ()
    """(published name of a tied copy, published name of the original): written again when exporting."""
    asset: Asset | None = None
    """The file of the cache that it becomes; None: the trained model's weights, for `model.<family>.init`."""
