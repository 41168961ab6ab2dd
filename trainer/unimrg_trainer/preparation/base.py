"""What a source is: something that the prepare stage turns into shards. One file per source holds all particulars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import JobError, Problem
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.sample import Sample


@dataclass(frozen=True, eq=False)
class SourceSample:
    """One image as a source gives it, to be stored under a key that the writer chooses."""

    image: bytes | np.ndarray | None = None
    """A whole file, a JPEG or PNG of which is stored byte for byte; pixels uint8 [H, W, 3], RGB; None: text alone."""
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Map name (`maps/`) → uint8 [H, W] or [H, W, 3]."""
    caption: str | None = None
    questions: Sequence[Mapping[str, Any]] = ()
    """Each with `question` and `answer`; further JSON values become attributes of the sample."""
    name: str = ""
    """What a person finds it by in the source."""
    issues: Sequence[str] = ()
    """What a person may want to know about it, in a few fixed phrases by which such samples are counted."""


class BadItem(ValueError):  # noqa: N818 - an answer more than an error
    """An item of a source is no sample: it is counted and listed, and the others go on."""

    def __init__(self, name: str, reason: str) -> None:
        """`reason` is one of a few fixed phrases, by which such items are counted."""
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


class Source(Protocol):
    """Items by split and number, most of which are samples. `registry.py` lists the sources that are built in; a
    package adds one by an entry point `unimrg.sources`, a callable as `SourceFactory`."""

    splits: Mapping[str, int]
    """Split (`train`, `heldOut`, `preview`) → number of items in it. May be found out when it is first asked for."""
    texts: Mapping[str, int]
    """Split → how many items, the last ones, are text alone; the others have an image."""

    def identity(self) -> Any:
        """Return, as JSON, all that the content depends on: equal identities must mean equal samples."""
        ...

    def sample(self, split: str, number: int) -> SourceSample:
        """Return item `number` (0 … splits[split] − 1), a function of identity, split and number alone.

        Called from several threads. Raises BadItem for one that cannot be used, StorageError where trying again may
        help.
        """
        ...


class Encoder(Protocol):
    """A model's frozen image encoder, which the prepare stage runs over what is trained on."""

    def identity(self) -> Any:
        """Return, as JSON, all that its results depend on besides the sample."""
        ...

    def encode(self, samples: Sequence[Sample]) -> Sequence[Mapping[str, np.ndarray]]:
        """Return, for each sample with its image and maps, member of the shards (`data/members.py`) → array.

        Raises UserError for a sample that lacks what is to be encoded.
        """
        ...


@dataclass(frozen=True)
class SourcePlace:
    """Where a source stands: what its URIs count from and how they are reached, and what messages call it."""

    field: str
    """The source in the job, e.g. `spec.data.sources[0].folder`."""
    base: Path
    """The folder that relative URIs count from."""
    storage: StorageSpec | None = None
    """How `s3://` is spoken to; None: as the environment says."""
    cache: Path = PodEnvironment.cache
    """Where copies of objects may be kept."""

    def refused(
        self, name: str, value: str, message: str, remedy: str, code: ExitCode = ExitCode.INPUT_MISSING
    ) -> JobError:
        """Return the error for a setting `name` of the source."""
        return JobError([Problem(f"{self.field}.{name}", repr(value), message, remedy, exit_code=code)])


class SourceFactory(Protocol):
    """What a source's name stands for."""

    def __call__(self, settings: Mapping[str, Any], place: SourcePlace) -> Source:
        """Return the source with its settings as in the job.

        Raises UserError or JobError for settings that are wrong. Called by every stage, so it should be quick: inputs
        are looked at when the source is first asked for something.
        """
        ...
