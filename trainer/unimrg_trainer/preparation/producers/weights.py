"""Weights of producers: found in a folder, a bucket or on the hub, known by the SHA-256 of their file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.storage import open_store
from unimrg_trainer.storage.base import NotFound
from unimrg_trainer.storage.copies import local_file

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
SHOWN = 5
"""Names of tensors that are listed in a message."""


@dataclass(frozen=True)
class Weights:
    """Where the weights of one producer lie."""

    field: str
    """Place of the model in the job, for messages."""
    uri: str
    """An absolute URI, or `hf://OWNER/NAME@COMMIT`."""
    sha256: str | None
    """What the safetensors file must be; None: whatever is there."""
    storage: StorageSpec | None
    cache: Path

    def config(self) -> dict[str, Any]:
        """Return what `config.json` in the folder says. Raises UserError: missing (66), or no JSON object (65)."""
        path = self._file(CONFIG_FILE)
        try:
            found = json.loads(path.read_bytes())
        except ValueError as error:
            raise self._corrupt(f"{self.uri}/{CONFIG_FILE} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise self._corrupt(f"{self.uri}/{CONFIG_FILE} holds no settings by name")
        return found

    def digest(self) -> str:
        """Return the SHA-256 of the safetensors file, which is read only where the job does not give it.

        Raises UserError (66) where the file is missing.
        """
        return self.sha256 or _sha256(self._file(self._name()))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, on the CPU. Raises UserError: missing (66), others or unreadable (65)."""
        path = self._file(self._name())
        if self.sha256 is not None and (found := _sha256(path)) != self.sha256:
            raise UserError(
                f"{self.field}.sha256: the file at {self.uri} has {found}, not {self.sha256}",
                remedy="get the file again, or correct the digest if these are the weights that you want",
                exit_code=ExitCode.DATA_CORRUPT,
            )
        try:
            tensors: dict[str, Tensor] = load_file(path)
        except (SafetensorError, OSError) as error:
            raise self._corrupt(f"the weights at {self.uri} are not a safetensors file: {error}") from error
        return tensors

    def load_into(
        self, module: nn.Module, tensors: Mapping[str, Tensor], tied: Mapping[str, str] | None = None
    ) -> None:
        """Copy tensors into `module`, which has all of them by the same names and shapes, but for `tied` ones: those
        (name → name of the same parameter) may be missing. Raises UserError (65) that names what does not fit."""
        wanted, copies = module.state_dict(), dict(tied or {})
        found = {**{name: tensors[of] for name, of in copies.items() if of in tensors}, **tensors}
        wrong = [f"{name} is missing" for name in wanted if name not in found]
        wrong += [f"{name} is unknown" for name in found if name not in wanted]
        wrong += [
            f"{name} is {list(found[name].shape)}, not {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in found and found[name].shape != tensor.shape
        ]
        if wrong:
            more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            raise self._corrupt(f"the weights at {self.uri} do not fit the model: {'; '.join(wrong[:SHOWN])}{more}")
        module.load_state_dict(found)

    def _name(self) -> str:
        """Return the key of the safetensors file: the URI names it, or the folder that holds it."""
        return "" if self.uri.endswith(".safetensors") else WEIGHTS_FILE

    def _file(self, name: str) -> Path:
        """Return a file of the folder on this machine, fetched where need be; empty: what the URI names itself."""
        if self.uri.startswith("hf://"):
            return self._from_hub(name)
        folder, _, last = self.uri.rpartition("/") if not name else (self.uri, "", name)
        key = unquote(last, errors="surrogateescape") if not name and folder.startswith("file://") else last
        store = open_store(folder, self.storage)
        try:
            if store.size(key) is None:
                raise NotFound(f"there is no {key}")
            return local_file(store, key, self.cache)
        except NotFound as error:
            raise self._missing(f"there is no {key} in {folder}") from error

    def _from_hub(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download  # seconds, and most jobs need none of it
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        repository, _, commit = self.uri.removeprefix("hf://").partition("@")
        try:
            found = hf_hub_download(repository, name or WEIGHTS_FILE, revision=commit, cache_dir=self.cache / "hub")
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise self._missing(
                f"{name} of {self.uri} cannot be fetched: {' '.join(str(error).split())[:300]}"
            ) from error
        return Path(found)

    def _missing(self, message: str) -> UserError:
        return UserError(
            f"{self.field}.weights: {message}",
            remedy="correct the place, or put the weights there (docs/method/data.md says how to get them)",
            exit_code=ExitCode.INPUT_MISSING,
        )

    def _corrupt(self, message: str) -> UserError:
        return UserError(
            f"{self.field}.weights: {message}",
            remedy="name weights of this model (docs/method/data.md), or get the files again",
            exit_code=ExitCode.DATA_CORRUPT,
        )


def _sha256(path: Path) -> str:
    state = path.stat()
    return _file_sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _file_sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
