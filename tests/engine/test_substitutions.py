"""Samples that stand in for damaged ones: the same on every rank, counted, kept in checkpoints, limited in number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.checkpoints import joined
from tests.support.one_step import planner_of, tiny_family
from tests.support.scene_records import SceneRecords
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.state import LocalState
from unimrg_trainer.data.shards import DamagedSample
from unimrg_trainer.engine.metrics import StepMetrics
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.engine.substitutions import Substitutions
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.sample import Sample


class Damaged(SceneRecords):
    """Scenes of which some cannot be read."""

    bad: tuple[int, ...] = (2, 3)

    def image_sample(self, index: int, wanted: object = None, read: object = None) -> Sample:
        if index in self.bad:
            raise DamagedSample(f"sample {index} is damaged")
        return super().image_sample(index)


def points(*substituted: int) -> list[StepMetrics]:
    return [StepMetrics(step + 1, {}, 0.0, 0.0, substituted=count) for step, count in enumerate(substituted)]


@pytest.mark.parametrize("same_images", [False, True])
def test_all_objectives_get_the_same_substitute_and_whole_samples_stay(same_images: bool) -> None:
    whole, reader = (RowReader(data(8), 3, same_images) for data in (SceneRecords, Damaged))
    for row in range(16):
        found = [reader(objective(name), row) for name in ("Pixel", "Depth", "Segmentation")]
        expected = whole(objective("Pixel"), row)
        assert len({sample.key for sample in found}) == 1
        bad = int(expected.key) in Damaged.bad
        assert (found[0].key != expected.key) is bad is bool(found[0].replaces)
        assert int(found[0].key) not in Damaged.bad


def test_a_step_tells_each_substituted_sample_once_at_any_number_of_ranks() -> None:
    planner = planner_of(tiny_family("harmon"), 4, records=Damaged(6))
    whole = planner.plan_step(1, 0, 1).substituted
    assert whole and all("is damaged" in text for text in whole)
    halves = [planner.plan_step(1, rank, 2).substituted for rank in (0, 1)]
    assert sorted(text for half in halves for text in half) == sorted(whole)


def test_evaluation_substitutes_nothing() -> None:
    with pytest.raises(DamagedSample):
        RowReader(Damaged(4), seed=None)(objective("Pixel"), 2)


def test_data_without_a_whole_sample_is_an_error() -> None:
    data = Damaged(3)
    data.bad = (0, 1, 2)
    with pytest.raises(DamagedSample, match=r"sample \d is damaged"):
        RowReader(data, seed=1)(objective("Pixel"), 0)


def test_a_rate_is_allowed_of_the_data_set_and_later_of_what_was_read() -> None:
    few = Substitutions(0.01, samples_per_step=10, records=500)
    assert few.count(points(2, 3)) is None
    error = few.count(points(1))
    assert error is not None and error.exit_code is ExitCode.DATA_CORRUPT
    assert "6 samples of 500" in error.message and "maxSubstitutedFraction" in error.message
    later = Substitutions(0.01, samples_per_step=10, records=500, total=5)
    assert later.count([replace(points(1)[0], step=60)]) is None
    none = Substitutions(0.0, 10, 500)
    assert none.count(points(0, 0)) is None and none.count(points(1)) is not None


@pytest.mark.usefixtures("process_group")
def test_their_number_is_part_of_a_checkpoint() -> None:
    first, second = Substitutions(0.5, 1, 10), Substitutions(0.5, 1, 10)
    first.count(points(1, 2))
    state: Any = joined(LocalState(2, first.export_pieces()))
    second.import_state(state.reader())
    assert second.total == 3
