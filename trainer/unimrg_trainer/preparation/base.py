"""What a source is: something that the prepare stage turns into shards. One file per source holds all particulars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unimrg_trainer.sample import Sample


@dataclass(frozen=True, eq=False)
class SourceSample:
    """One image as a source gives it, to be stored under a key that the writer chooses."""

    image: bytes | np.ndarray
    """A whole JPEG or PNG file, stored byte for byte, or pixels uint8 [H, W, 3] (RGB), stored as PNG."""
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Map name (`maps/`) → uint8 [H, W] or [H, W, 3]."""
    caption: str | None = None
    questions: Sequence[Mapping[str, Any]] = ()
    """Each with `question` and `answer`; further JSON values become attributes of the sample."""


class Source(Protocol):
    """Samples by split and number. `registry.py` lists the sources that are built in; a package adds one by an entry
    point `unimrg.sources`, a callable as `SourceFactory`."""

    splits: Mapping[str, int]
    """Split (`train`, `heldOut`, `preview`) → number of samples in it."""

    def identity(self) -> Any:
        """Return, as JSON, all that the content depends on: equal identities must mean equal samples."""
        ...

    def check(self) -> None:
        """Raise UserError or JobError for samples that cannot be read; called once, before anything is written."""
        ...

    def sample(self, split: str, number: int) -> SourceSample:
        """Return sample `number` (0 … splits[split] − 1), a function of identity, split and number alone."""
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


class SourceFactory(Protocol):
    """What a source's name stands for."""

    def __call__(self, settings: Mapping[str, Any], base: Path, field: str) -> Source:
        """Return the source with its settings as in the job; relative URIs count from `base`, a folder.

        `field` is the source's place in the job, for messages. Raises UserError or JobError for settings that are
        wrong and inputs that are missing. Called by every stage, so it should be quick.
        """
        ...
