"""Outputs in a folder that data is prepared from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unimrg_api.output_places import outputs_in_sources

BASE = Path("/jobs")


@pytest.mark.parametrize(
    ("source", "shards", "checkpoint", "places"),
    [
        ({"folder": {"uri": "file://."}}, "file://data", "file://run", [("data", "shards", 0), ("checkpoint", "uri")]),
        ({"folder": {"uri": "file:///jobs/photos/"}}, "file://photos/data", "file://run", [("data", "shards", 0)]),
        ({"folder": {"uri": "file://photos"}}, "file://photos2/data", "file://x/../photos", [("checkpoint", "uri")]),
        ({"webDataset": {"uri": "s3://b/tars/p-{0..9}.tar"}}, "s3://b/tars/out", "s3://b/run", [("data", "shards", 0)]),
        ({"llava": {"annotations": "s3://b/a.json", "images": "s3://b/i"}}, "s3://b/a.json", "s3://b/run", []),
        ({"scenes": {"train": 4}}, "file://data", "file://run", []),
    ],
)
def test_outputs_below_a_source_are_found(
    source: dict[str, Any], shards: str, checkpoint: str, places: list[object]
) -> None:
    spec = {"data": {"sources": [source], "shards": [shards]}, "checkpoint": {"uri": checkpoint}}
    assert [place for place, _, _ in outputs_in_sources(spec, BASE)] == places
