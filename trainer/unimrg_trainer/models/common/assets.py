"""Files that a model needs and that do not ship with us: tokenizers, and the weights of frozen encoders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode


@dataclass(frozen=True)
class Asset:
    """One such file."""

    file: str
    """Name in the family's folder of the cache."""
    what: str
    """What it is, with its article, e.g. `the KL-16 autoencoder`."""
    remedy: str
    """How to get it."""

    def find(self, folder: Path) -> Path:
        """Return its path in `folder`; the file is not opened. Raises UserError (INPUT_MISSING) where it is missing."""
        path = folder / self.file
        if not path.is_file():
            raise UserError(
                f"this model needs {self.what}, and {path} is missing",
                remedy=self.remedy,
                exit_code=ExitCode.INPUT_MISSING,
            )
        return path

    def load(self, folder: Path, module: nn.Module) -> None:
        """Load a safetensors file into `module`; its names and shapes must be the module's, all of them.

        Raises UserError: INPUT_MISSING where the file is missing, DATA_CORRUPT where it does not fit.
        """
        path = self.find(folder)
        wanted = module.state_dict()
        try:
            found = load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} cannot be read as a safetensors file: {error}",
                remedy=self.remedy,
                exit_code=ExitCode.DATA_CORRUPT,
            ) from error
        wrong = sorted(set(found) ^ set(wanted)) or [k for k in wanted if found[k].shape != wanted[k].shape]
        if wrong:
            raise UserError(
                f"{path} is not {self.what}: {len(wrong)} tensors are missing, unknown or of another shape, "
                f"e.g. {wrong[0]}",
                remedy=self.remedy,
                exit_code=ExitCode.DATA_CORRUPT,
            )
        module.load_state_dict(found)


def assets_folder(cache: Path, family: str) -> Path:
    """Return the folder of a family's files, where a job does not name another place."""
    return cache / family
