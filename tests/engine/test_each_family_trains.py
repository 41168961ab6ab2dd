"""The train stage of each family: resuming changes no bit, and the contact sheet shows the first rows once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import assert_same
from tests.support.local_jobs import prepare_data, tiny_job
from tests.support.one_step import FAMILIES, OBJECTIVES
from tests.support.train_stage import ASKED_TO_STOP, newest, run_stage
from unimrg_api.errors import Interrupted
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.engine import contact_sheet
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.engine.step_plan import StepPlanner
from unimrg_trainer.engine.strategies import ddp
from unimrg_trainer.evaluation.pictures import Preview
from unimrg_trainer.maps.geometry import squash
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.storage import LocalStore

pytestmark = pytest.mark.timeout(120)
SEED = 12
SHEET = Path("results", "contact_sheet.png")
SHOWN = 2
"""Rows of each objective on it: as many as a micro-step of `tiny_job` has."""


@dataclass
class Seen:
    """What one attempt did, in order: `sheet` or `forward` (the dry run's among them); and what its sheet shows."""

    events: list[str] = field(default_factory=list)
    shown: list[dict[str, list[Preview]]] = field(default_factory=list)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        write, draw = contact_sheet.write_contact_sheet, contact_sheet.contact_sheet_png
        seen = self

        class Watched(ddp.DataParallel):
            def forward_backward(self, *arguments: Any, **named: Any) -> Any:
                seen.events.append("forward")
                return super().forward_backward(*arguments, **named)

        def watched_write(setup: Setup, planner: StepPlanner) -> Path | None:
            self.events.append("sheet")
            return write(setup, planner)

        def watched_draw(objectives: dict[str, list[Preview]], **named: Any) -> bytes:
            self.shown.append(objectives)
            return draw(objectives, **named)

        patch.setattr(ddp, "DataParallel", Watched)
        patch.setattr(contact_sheet, "write_contact_sheet", watched_write)
        patch.setattr(contact_sheet, "contact_sheet_png", watched_draw)


@dataclass(frozen=True, repr=False)
class Runs:
    """Three steps of a family: in two attempts under `run`, in one under `whole`."""

    folder: Path
    dataset: Dataset
    digest: str
    seen: dict[int, Seen]
    """By attempt: 1 and 2 of the run that was interrupted, 3 is the other run."""


@pytest.fixture(scope="module", params=FAMILIES)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp(request.param)
    seen = {attempt: Seen() for attempt in (1, 2, 3)}

    def attempt(number: int, uri: str, stop: Any = None) -> None:
        job, _ = tiny_job(folder, **changes, checkpoint__uri=uri)
        with pytest.MonkeyPatch.context() as patch:
            seen[number].watch(patch)
            run_stage(folder, job, number, patch, stop=stop)

    changes = {"model": {request.param: {"variant": "Tiny"}}, "training__stopStep": 3, "training__seed": SEED}
    job, _ = tiny_job(folder, **changes)
    prepare_data(job, folder)
    dataset = Dataset.open(LocalStore(folder / "data"), "train")
    digest = job.training_digest(dataset.digest)
    with pytest.raises(Interrupted):
        attempt(1, "file://run", stop=ASKED_TO_STOP)
    assert newest(folder / "run", digest).step == 2
    attempt(2, "file://run")
    attempt(3, "file://whole")
    yield Runs(folder, dataset, digest, seen)


def test_a_resumed_run_has_the_bits_of_one_that_was_not_interrupted(runs: Runs) -> None:
    assert len(runs.seen[2].events) < len(runs.seen[3].events), "it began anew"
    assert_same(newest(runs.folder / "run", runs.digest), newest(runs.folder / "whole", runs.digest))


def test_a_contact_sheet_is_written_once_before_the_first_step(runs: Runs) -> None:
    first, second, _ = runs.seen.values()
    assert first.events[0] == "sheet" and set(first.events[1:]) == {"forward"}
    assert "sheet" not in second.events and not (runs.folder / "pod-2" / SHEET).exists()
    assert (runs.folder / "pod-1" / SHEET).read_bytes() == (runs.folder / "run" / SHEET).read_bytes()


def test_a_contact_sheet_shows_what_its_rows_read_and_learn(runs: Runs) -> None:
    """Each picture is closest to its own row's image or map, of all that the data set has."""
    (shown,) = runs.seen[1].shown
    assert list(shown) == list(OBJECTIVES)
    samples = [runs.dataset.image_sample(number) for number in range(len(runs.dataset.images))]
    read = RowReader(runs.dataset, SEED)
    for name, previews in shown.items():
        asked = objective(name)
        assert len(previews) == SHOWN
        for row, (image, target) in enumerate(previews):
            own = read(asked, row)
            assert image is not None and own.image is not None
            assert_closest(image, own.image, [sample.image for sample in samples])
            assert (target is None) == (asked.map is None)
            if target is not None and asked.map is not None:
                side = len(target)
                assert_closest(target, asked.map.target(own, side), [asked.map.target(s, side) for s in samples])


def assert_closest(picture: np.ndarray, own: np.ndarray, all_of_them: list[Any]) -> None:
    """Of all images, uint8 [H, W, 3], `own` differs least from the decoded picture."""

    def difference(image: np.ndarray) -> float:
        return float(np.square(squash(image, len(picture)).astype(float) - picture).mean())

    others = [difference(image) for image in all_of_them if (image != own).any()]
    assert len(others) == len(all_of_them) - 1
    assert difference(own) < min(others)
