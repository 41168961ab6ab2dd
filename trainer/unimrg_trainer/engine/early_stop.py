"""Measures in the middle of training, and ends training where measurements do not get better any more.

What is measured is the held-out loss, or a metric of a benchmark; its negative is the score then, for the best
checkpoint has the lowest.
"""

from __future__ import annotations

import math

import torch

from unimrg_api.errors import UserError
from unimrg_trainer.checkpoint.agreement import TorchAgreement, on_first_rank
from unimrg_trainer.checkpoint.reader import list_commits
from unimrg_trainer.early_stop import EarlyStopRule, ended_early
from unimrg_trainer.engine.choices import asked_benchmarks
from unimrg_trainer.engine.measuring import MeasurementStopped, SharedWork, TrainedModel, held_out_loss, held_out_rows
from unimrg_trainer.engine.reporting import Reporter
from unimrg_trainer.engine.results import BenchmarkFiles
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.engine.stopping import CollectiveStopFlag
from unimrg_trainer.engine.strategies.base import Strategy
from unimrg_trainer.evaluation.benchmarks.base import Subject
from unimrg_trainer.evaluation.runner import Runner
from unimrg_trainer.models.requests import AnswerRequest, GenerateRequest
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
            self._settings = settings
            self._data = setup.open_data("heldOut")
            self._rows = held_out_rows(setup, self._data) if settings.benchmark is None else 0

    def ends(self, finished_steps: int) -> bool:
        """Measure, if it is due; return whether training ends because of it. A collective call.

        Polls the stop flag with every batch, and measures nothing once a stop is agreed.
        """
        if self._rule is None or not self._rule.is_due(finished_steps):
            return False
        self._sections.enter("evaluate", finished_steps)
        try:
            measure = self._held_out_loss if self._settings.benchmark is None else self._benchmark
            score = measure(finished_steps)
        except MeasurementStopped:
            return False
        if math.isfinite(score):
            self._scores[finished_steps] = score
        self._rule.add(finished_steps, score)
        if self._rule.is_over(finished_steps):
            best = f"{self._settings.measured(self._rule.best_score)}, after step {self._rule.best_step}"
            self._reporter.notify(f"training ends with step {finished_steps}: {best}")
            return True
        return False

    def _held_out_loss(self, finished_steps: int) -> float:
        losses = held_out_loss(self._setup, self._strategy.row_sums, self._data, self._rows, self._before_batch)
        weights = self._setup.objective_weights
        loss = sum(weight * losses[name] for name, weight in weights.items()) / len(losses)
        self._reporter.record_held_out(finished_steps, loss, losses)
        return loss

    def _benchmark(self, finished_steps: int) -> float:
        """Put the benchmark to the weights as they are, which no strategy divides here (a rule of the job)."""
        setup, strategy, selection = self._setup, self._strategy, self._settings.benchmark
        assert selection is not None
        asked = asked_benchmarks(setup.job, setup.env)[selection.name]
        maps = [objective.map for objective in setup.objectives if objective.map is not None]
        subject = Subject(self._data, maps, setup.family.prompt_style, setup.device.type)
        model = TrainedModel(setup.family, strategy.model, self._sections.tick)
        work = SharedWork(setup.rank, setup.world_size)

        def progress(what: str, done: int, total: int) -> None:
            if what.endswith("block"):  # equally many on every rank, unlike rounds
                self._before_batch()
            else:
                self._sections.tick()

        runner = Runner(model, work, progress, evenly=True)
        files = BenchmarkFiles(setup.run_store, f"results/step-{finished_steps}/{asked.name}")
        try:
            with torch.compiler.set_stance("force_eager"):  # compiled blocks are for the shapes of training
                result = runner.measure(
                    asked, subject, {AnswerRequest, GenerateRequest}, setup.job.spec.training.seed, files
                )
        finally:
            strategy.wrapped.train()

        def value() -> float:
            found = {} if result is None else result.metrics
            if selection.metric not in found:
                names = sorted(found, key=lambda name: name.count("/"))  # those of all items before those of categories
                raise UserError(
                    f"spec.training.earlyStop.benchmark.metric: {selection.name} has no metric {selection.metric!r}",
                    remedy=f"it has {', '.join(names)}" if found else "choose a benchmark that has something to ask",
                )
            if result is not None and selection.metric in result.lower_is_better:
                raise UserError(
                    f"spec.training.earlyStop.benchmark: of {selection.name} {selection.metric} less is better",
                    remedy="choose one of which more is better, e.g. a gain over a baseline",
                )
            self._reporter.record_benchmark(finished_steps, asked, found)
            return found[selection.metric]

        return -on_first_rank(TorchAgreement(setup.gloo_group), f"scoring {asked.name}", value)

    def _before_batch(self) -> None:
        self._sections.tick()
        if self._stop.poll():
            raise MeasurementStopped

    @property
    def misses(self) -> int:
        """How many measurements came after the best one."""
        return 0 if self._rule is None else self._rule.misses

    def score(self, step: int) -> float | None:
        """Return the score after `step`, the lower the better; None if it was not measured or is not finite."""
        return self._scores.get(step)
