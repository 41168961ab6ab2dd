"""Measures the held-out loss in the middle of training, and ends training where it does not fall any more."""

from __future__ import annotations

import math

from unimrg_trainer.checkpoint.agreement import TorchAgreement, on_first_rank
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.early_stop import EarlyStopRule, ended_early
from unimrg_trainer.engine.measuring import MeasurementStopped, held_out_loss, held_out_rows
from unimrg_trainer.engine.reporting import Reporter
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.engine.stopping import CollectiveStopFlag
from unimrg_trainer.engine.strategies.base import Strategy
from unimrg_trainer.sections import SectionFile


class EarlyStop:
    """What spec.training.earlyStop asks for; every rank makes the same calls."""

    def __init__(
        self,
        setup: Setup,
        strategy: Strategy,
        reporter: Reporter,
        sections: SectionFile,
        stop: CollectiveStopFlag,
        first_step: int,
    ) -> None:
        """Goes on from the scores of the run's checkpoints, as far as `first_step`."""
        self._setup = setup
        self._strategy = strategy
        self._reporter = reporter
        self._sections = sections
        self._stop = stop
        self._scores: dict[int, float] = {}
        settings = setup.job.spec.training.early_stop
        self._rule: EarlyStopRule | None = None
        self.has_ended = False
        """Whether training ended with `first_step` already."""
        if settings is not None:
            store, agreement = setup.run_store, TorchAgreement(setup.gloo_group)
            commits, self.has_ended = on_first_rank(
                agreement,
                "reading the scores of checkpoints",
                lambda: (list_commits(store), first_step > 0 and ended_early(store, settings, first_step)),
            )
            self._rule = EarlyStopRule(settings, commits, first_step)
            self._data = setup.open_data("heldOut")
            self._rows = held_out_rows(setup, self._data)

    def ends(self, finished_steps: int) -> bool:
        """Measure the held-out loss, if it is due; return whether training ends because of it. A collective call.

        Polls the stop flag with every batch, and measures nothing once a stop is agreed.
        """
        if self._rule is None or not self._rule.is_due(finished_steps):
            return False
        self._sections.enter("evaluate", finished_steps)

        def before_batch() -> None:
            self._sections.tick()
            if self._stop.poll():
                raise MeasurementStopped

        try:
            losses = held_out_loss(self._setup, self._strategy.row_sums, self._data, self._rows, before_batch)
        except MeasurementStopped:
            return False
        weights = self._setup.objective_weights
        loss = sum(weight * losses[name] for name, weight in weights.items()) / len(losses)
        self._reporter.record_held_out(finished_steps, loss, losses)
        if math.isfinite(loss):
            self._scores[finished_steps] = loss
        self._rule.add(finished_steps, loss)
        if self._rule.is_over(finished_steps):
            best = f"{self._rule.best_score:.4g} after step {self._rule.best_step}"
            self._reporter.notify(f"training ends with step {finished_steps}: the held-out loss was lowest with {best}")
            return True
        return False

    @property
    def misses(self) -> int:
        """How many measurements came after the one with the lowest loss."""
        return 0 if self._rule is None else self._rule.misses

    def score(self, step: int) -> float | None:
        """Return the held-out loss after `step`; None if it was not measured or is not finite."""
        return self._scores.get(step)
