"""What a backend does: turn one attempt of a stage into the object that runs it. Nothing is watched here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import StageName
from unimrg_api.status import Ledger

Manifest = dict[str, Any]
"""A Kubernetes object as plain JSON values."""


@dataclass(frozen=True)
class Resource:
    """A kind of object, as the API addresses it."""

    group: str
    version: str
    plural: str
    kind: str


@dataclass(frozen=True)
class Attempt:
    """One attempt of one stage of one job: everything that its manifest depends on but the site profile."""

    job: UniMRGJob
    namespace: str
    uid: str
    """Of the UniMRGJob object; `unimrg render` has none and says so."""
    stage: StageName
    number: int
    train_attempt: int
    ledger: Ledger


class Backend(Protocol):
    """Renders children. The same attempt gives the same manifest, byte for byte."""

    def resource(self, stage: StageName) -> Resource:
        """Return what kind of object runs a stage."""
        ...

    def render(self, attempt: Attempt) -> Manifest:
        """Return the child. Raises UserError for a job that this backend or site cannot run."""
        ...
