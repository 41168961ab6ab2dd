"""When a training ends early: its held-out loss has not fallen for so many measurements.

The loss is the score of its step's checkpoint, and the best checkpoint is kept; so all that the rule needs is there
when a training is resumed, and nothing else has to be remembered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from unimrg_api.spec_training import EarlyStopSpec
from unimrg_trainer.checkpoint.commit import Commit


class EarlyStopRule:
    """Counts the measurements since the lowest score."""

    def __init__(self, settings: EarlyStopSpec, commits: Iterable[Commit], up_to_step: int) -> None:
        """`commits` are those of the run; those beyond `up_to_step`, from which training goes on, do not count."""
        self._settings = settings
        self.best_step, self.best_score = 0, math.inf
        for commit in sorted(commits, key=lambda one: one.step):
            if commit.step <= up_to_step and commit.score is not None:
                self.add(commit.step, commit.score)

    def is_due(self, step: int) -> bool:
        """Whether the held-out loss is measured after this step."""
        return step % self._settings.every_steps == 0

    def add(self, step: int, score: float) -> None:
        """Take a measurement; one that is not finite is no improvement."""
        if score <= self.best_score and math.isfinite(score):
            self.best_step, self.best_score = step, score

    def is_over(self, step: int) -> bool:
        """Whether training ends with this step."""
        return self.is_due(step) and (step - self.best_step) // self._settings.every_steps >= self._settings.patience
