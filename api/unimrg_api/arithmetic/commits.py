"""Commits of a job in the object store: their number, their bytes, and how many of them retention keeps."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from unimrg_api.arithmetic.memory import STORAGE_BYTES
from unimrg_api.job import JobSpec
from unimrg_api.spec_platform import NEVER_DELETED, CheckpointSpec


class Section(BaseModel):
    """A section of a plan."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class Checkpoints(Section):
    """Bytes in the object store."""

    commit: int
    """Of one commit: weights and two moments."""
    commits: int
    kept: int
    """Of all that are kept at once."""
    written: int
    """Over the training."""
    copy_bytes: int
    """Of the host's memory, for each process while a commit is written: its share of the commit."""


def checkpoints_of(spec: JobSpec, parameters: int, trained: int) -> Checkpoints:
    """Return the commits of a job whose module has so many parameters, and trains so many of them."""
    commit = STORAGE_BYTES[spec.training.precision] * (parameters + 2 * trained)
    steps = spec.training.resolved_stop_step()
    commits = -(-steps // spec.checkpoint.every_steps)
    kept = _kept(commits, spec.checkpoint, steps) + (spec.training.early_stop is not None)
    return Checkpoints(
        commit=commit,
        commits=commits,
        kept=commit * min(commits, kept),
        written=commit * commits,
        copy_bytes=-(-commit // spec.trainer.processes),
    )


def _kept(commits: int, settings: CheckpointSpec, steps: int) -> int:
    """How many of so many commits stay by their age: the newest, at least NEVER_DELETED, and the first of every
    `keep_every` steps."""
    newest = min(commits, max(settings.keep_last, NEVER_DELETED))
    if settings.keep_every is None:
        return newest
    windows = range(settings.keep_every, steps + 1, settings.keep_every)
    firsts = {-(-window // settings.every_steps) for window in windows}
    return newest + sum(number <= commits - newest for number in firsts)
