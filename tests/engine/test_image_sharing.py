"""`imageSharing: All`: questions are about the images that a step generates, and packed rows then share them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.data.test_dataset import write
from tests.support.dictionary_store import DictionaryStore
from tests.support.one_step import planner_of, tiny_family
from tests.support.scene_records import SceneRecords
from unimrg_api.errors import UserError
from unimrg_trainer.data.publication import find_publication
from unimrg_trainer.engine.row_reader import RowReader
from unimrg_trainer.engine.setup import Setup
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.preparation.base import SourceSample
from unimrg_trainer.preparation.make import pack


def test_data_is_refused_before_the_first_step_for_what_rows_lack(dictionary_store: DictionaryStore) -> None:
    grey = np.zeros((4, 4), np.uint8)
    sample = SourceSample(np.zeros((4, 4, 3), np.uint8), {"depth": grey, "segmentation": grey})
    write(dictionary_store, pack(sample).members)

    def open_train(sharing: str, method: str) -> None:
        batch = SimpleNamespace(image_sharing=sharing)
        spec = SimpleNamespace(
            training=SimpleNamespace(batch=batch),
            data=SimpleNamespace(proportions=lambda: None),
            resolved_objectives=lambda: {"Understanding": 1.0, method: 1.0},
        )
        setup: Any = SimpleNamespace(
            job=SimpleNamespace(spec=spec),
            data_sets=[(dictionary_store, find_publication(dictionary_store))],
            same_images=sharing == "All",
        )
        Setup.open_data(setup, "train")

    open_train("Generation", "Depth")
    with pytest.raises(UserError, match="no question"):
        open_train("All", "Depth")
    del sample.maps["depth"]  # type: ignore[attr-defined]
    store = DictionaryStore()
    write(store, pack(sample).members)
    dictionary_store.objects = store.objects
    open_train("Generation", "Pixel")
    with pytest.raises(UserError, match=r"1 of 1 images .* no map 'depth'"):
        open_train("Generation", "Depth")


def test_a_question_is_about_the_image_of_its_global_row() -> None:
    def keys(same_images: bool, name: str) -> list[str]:
        read = RowReader(SceneRecords(6), seed=3, same_images=same_images)
        return [read(objective(name), row).key for row in range(12)]

    assert keys(True, "Understanding") == keys(True, "Depth") == keys(False, "Depth")
    assert keys(False, "Understanding") != keys(False, "Depth")


def test_packed_rows_of_shared_images_have_fewer_tokens() -> None:
    planner = planner_of(tiny_family("harmon"), 8, records=SceneRecords(40))
    shared = replace(planner, reader=replace(planner.reader, same_images=True))
    apart, together = (one.plan_step(0, 0, 1).micro_steps[0].batch for one in (planner, shared))
    assert len(together.images) < len(apart.images)
    assert together.positions.numel() < apart.positions.numel()
