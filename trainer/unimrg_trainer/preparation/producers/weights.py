"""Weights of models that are not trained: in a folder, a bucket or on the hub, known by the SHA-256 of their file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.files import file_sha256
from unimrg_trainer.storage import open_store
from unimrg_trainer.storage.base import StorageError
from unimrg_trainer.storage.copies import local_file
from unimrg_trainer.storage.local import os_errors_as_storage_errors

logger = logging.getLogger(__name__)

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
SHOWN = 5
"""Tensors that a message names."""


@dataclass(frozen=True)
class Weights:
    """Where the weights of one producer or judge lie."""

    field: str
    """Place of the model in the job, for messages."""
    uri: str
    """Absolute: `file://` or `s3://`, a safetensors file or the folder that holds one; or `hf://OWNER/NAME@COMMIT`."""
    sha256: str | None
    """What the safetensors file must be; None: whatever is there."""
    storage: StorageSpec | None
    cache: Path
    setting: str = "weights"
    """The field below `field` that holds the URI."""
    page: str = "docs/method/producers.md"
    """Where it is written which weights these may be."""

    def config(self) -> dict[str, Any]:
        """Return what `config.json` in the folder says. Raises UserError: missing (66), no JSON object (65)."""
        content = self.file(CONFIG_FILE).read_bytes()
        try:
            found = json.loads(content)
        except ValueError as error:
            raise self._corrupt(f"{CONFIG_FILE} in {self.uri} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise self._corrupt(f"{CONFIG_FILE} in {self.uri} holds no settings by name")
        return found

    def digest(self) -> str:
        """Return the SHA-256 of the safetensors file, which is read only where the job does not give it.

        Raises UserError (66) where the file is missing.
        """
        return self.sha256 or file_sha256(self.file(WEIGHTS_FILE))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, on the CPU. Raises UserError: missing (66), others or unreadable (65)."""
        path = self.file(WEIGHTS_FILE)
        if self.sha256 is not None and (found := file_sha256(path)) != self.sha256:
            raise UserError(
                f"{self.field}.sha256: the weights at {self.uri} have {found}, not {self.sha256}",
                remedy="get the file again, or correct the digest if these are the weights that you want",
                exit_code=ExitCode.DATA_CORRUPT,
            )
        try:
            tensors: dict[str, Tensor] = load_file(path)
        except (SafetensorError, OSError) as error:
            raise self._corrupt(f"the weights at {self.uri} are not a safetensors file: {error}") from error
        return tensors

    def transformer(self, model: Any, device: str) -> Any:
        """Return a model of the transformers class `model` as the folder's configuration says, with its weights, to be
        evaluated. Raises UserError (65, 66) as `config` and `tensors`, and where the two do not fit.
        """
        from transformers.utils import logging as messages

        messages.set_verbosity_error()  # what does not fit is said below
        messages.disable_progress_bar()
        settings, tensors, kind = self.config(), self.tensors(), model.config_class.model_type
        if settings.get("model_type") != kind:
            raise self._corrupt(f"{self.uri} holds a model of type {settings.get('model_type')!r}, not {kind!r}")
        try:
            built, report = model.from_pretrained(
                None,
                config=model.config_class.from_dict(settings),
                state_dict=tensors,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are in the report, all of them
                output_loading_info=True,
            )
        except (ValueError, TypeError, KeyError) as error:  # what transformers says about settings that cannot be
            raise self._corrupt(f"{CONFIG_FILE} in {self.uri} describes no such model: {error}") from error
        self._check_fit(report["missing_keys"], [key[0] for key in report["mismatched_keys"]])
        if unused := sorted(report["unexpected_keys"]):
            logger.warning("%s: %d tensors are ignored: not in the model, e.g. %s", self.uri, len(unused), unused[0])
        return built.eval().to(device)

    def load_into(self, module: nn.Module, device: str) -> Any:
        """Return the module, which may be on the meta device, with the weights, to be evaluated.

        Raises UserError (65, 66) as `tensors`, and where one of the module's tensors is missing.
        """
        found, wanted = self.tensors(), module.state_dict()
        wrong = [name for name in wanted.keys() & found.keys() if found[name].shape != wanted[name].shape]
        self._check_fit(wanted.keys() - found.keys(), wrong)
        module.load_state_dict({name: found[name] for name in wanted}, assign=True)
        return module.eval().to(device)

    def _check_fit(self, missing: Iterable[str], wrong: Iterable[str]) -> None:
        """Raise UserError (65) if tensors of the model are missing or have another shape."""
        found = [f"{name} is missing" for name in sorted(missing)]
        found += [f"{name} has another shape" for name in sorted(wrong)]
        if found:
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise self._corrupt(f"the weights at {self.uri} do not fit the model: {'; '.join(found[:SHOWN])}{more}")

    def file(self, name: str) -> Path:
        """Return a file of the folder on this machine, fetched where need be; of a URI that names a file, that one.

        Raises UserError (66) where it is missing, StorageError where it cannot be fetched.
        """
        if self.uri.startswith("hf://"):
            return self._from_hub(name)
        folder, key = self.uri, name
        if self.uri.endswith(".safetensors"):
            folder, _, last = self.uri.rpartition("/")
            key = unquote(last, errors="surrogateescape") if folder.startswith("file://") else last
        store = open_store(folder, self.storage)
        if store.size(key) is None:
            raise self._missing(f"there is no {key} in {folder}")
        return local_file(store, key, self.cache)

    def _from_hub(self, name: str) -> Path:
        """Return a file of the repository; one that is in the cache is not asked for again.

        Raises StorageError: while the hub cannot be reached (69), where it refuses the token (77), on a full disk.
        """
        from huggingface_hub import errors, hf_hub_download  # takes a second, and few jobs need it

        repository, _, commit = self.uri.removeprefix("hf://").partition("@")
        try:
            return Path(hf_hub_download(repository, name, revision=commit, cache_dir=self.cache / "hub"))
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
            raise self._missing(f"the hub gives no {name} of {self.uri}: {_line(error)}") from error
        except OSError as error:  # the hub's errors are some of these
            if error.errno is not None:  # a full disk, for one
                with os_errors_as_storage_errors(f"store {name} of {self.uri} in", self.cache / "hub"):
                    raise
            status = _status(error)
            refused, answer = status in (401, 403), f" (the hub answers {status})" if status else ""
            message = f"{self.field}.{self.setting}: {name} of {self.uri} cannot be fetched{answer}: {_line(error)}"
            raise StorageError(
                message,
                remedy="set HF_TOKEN to a token that may read it, or put the files where the job's pods reach them"
                if refused
                else "try again, or put the files where the job's pods reach them",
                exit_code=ExitCode.CREDENTIALS if refused else ExitCode.UNAVAILABLE,
            ) from error

    def _missing(self, message: str) -> UserError:
        return UserError(
            f"{self.field}.{self.setting}: {message}",
            remedy=f"correct the place, or put the weights there; {self.page} says which",
            exit_code=ExitCode.INPUT_MISSING,
        )

    def _corrupt(self, message: str) -> UserError:
        return UserError(
            f"{self.field}.{self.setting}: {message}",
            remedy=f"name weights of this model, or get the files again; {self.page} says which",
            exit_code=ExitCode.DATA_CORRUPT,
        )


def _status(error: BaseException | None) -> int:
    """Return the HTTP status in an error or what it came from; 0: there was no answer."""
    while error is not None:
        if status := getattr(getattr(error, "response", None), "status_code", 0):
            return int(status)
        error = error.__cause__
    return 0


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
