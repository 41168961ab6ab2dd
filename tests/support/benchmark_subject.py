"""What benchmarks are given in tests: some data, some maps, the default way of asking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimrg_trainer.evaluation.benchmarks.base import BenchmarkPlace, Subject
from unimrg_trainer.maps.base import ImageMap
from unimrg_trainer.models.requests import DEFAULT_STYLE

PLACE = BenchmarkPlace("spec.stages.evaluate.benchmarks[0].toy", Path("/nowhere"))
"""A place without files."""


class Files(dict[str, bytes]):
    """What benchmarks write, in memory."""

    folder = "results/toy"

    def write(self, path: str, content: bytes) -> None:
        self[path] = content


def subject(data: Any = None, maps: Sequence[ImageMap] = ()) -> Subject:
    return Subject(data, maps, DEFAULT_STYLE)
