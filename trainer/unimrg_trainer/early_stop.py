"""When a training ends early: its held-out loss has not fallen for so many measurements.

The loss is the score of its step's checkpoint, the best checkpoint is kept, and each says how many measurements came
after the best; so all that the rule needs is there when a training is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from unimrg_api.spec_training import EarlyStopSpec
from unimrg_trainer.checkpoint.commit import Commit
from unimrg_trainer.checkpoint.reader import list_commits, read_manifest
from unimrg_trainer.storage.base import ObjectStore


class EarlyStopRule:
    """Counts the measurements since the lowest score."""

    def __init__(self, settings: EarlyStopSpec, commits: Iterable[Commit], up_to_step: int) -> None:
        """`commits` are those of the run; those beyond `up_to_step`, from which training goes on, do not count."""
        self._settings = settings
        self.best_step, self.best_score, self.misses = 0, math.inf, 0
        for commit in sorted(commits, key=lambda one: one.step):
            if commit.step <= up_to_step:
                if commit.score is not None:
                    self.add(commit.step, commit.score)
                self.misses = commit.misses  # those between may be deleted

    def is_due(self, step: int) -> bool:
        """Whether the held-out loss is measured after this step."""
        return step % self._settings.every_steps == 0

    def add(self, step: int, score: float) -> None:
        """Take a measurement; one that is not finite is no improvement."""
        if score <= self.best_score and math.isfinite(score):
            self.best_step, self.best_score, self.misses = step, score, 0
        else:
            self.misses += 1

    def is_over(self, step: int) -> bool:
        """Whether training ends with this step."""
        return self.is_due(step) and self.misses >= self._settings.patience


def ended_early(store: ObjectStore, settings: EarlyStopSpec, step: int) -> bool:
    """Whether training ended with the checkpoint of `step`: the rule says so, and it was saved as the final one.

    An interruption may come before a measurement that is due. Raises StorageError.
    """
    commits = list_commits(store)
    if not EarlyStopRule(settings, commits, step).is_over(step):
        return False
    return any(one.step == step and read_manifest(store, one).reason == "final" for one in commits)
