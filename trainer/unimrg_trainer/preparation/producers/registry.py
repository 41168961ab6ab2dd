"""The producers of maps that a job names. A model's code is imported when one is opened, for it needs torch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from unimrg_api.environment import PodEnvironment
from unimrg_api.fields import resolve_uri
from unimrg_api.spec_maps import MapsSpec
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.preparation.producers.base import MapProducer

MODELS = {
    "depth.depthAnything": "unimrg_trainer.preparation.producers.depth_anything:DepthAnything",
    "segmentation.sam": "unimrg_trainer.preparation.producers.sam:Sam",
    "segmentation.hed": "unimrg_trainer.preparation.producers.hed:Hed",
}
"""Place below `spec.data.maps` → factory."""


def open_producers(
    maps: MapsSpec | None,
    base: Path,
    device: str,
    *,
    storage: StorageSpec | None = None,
    cache: Path = PodEnvironment.cache,
) -> list[MapProducer]:
    """Return the job's producers, one for each map that it names; no weights are read yet.

    Relative URIs count from `base`, a folder. `device` is torch's name of where the models run, `cpu` or `cuda`.
    `storage` says how `s3://` is spoken to; copies of weights from elsewhere are kept in `cache`.
    """
    found: list[MapProducer] = []
    for place, spec in ({} if maps is None else maps.models()).items():
        from unimrg_trainer.preparation.producers.weights import Weights  # torch, too, only where a model is named

        weights = Weights(f"spec.data.maps.{place}", resolve_uri(spec.weights, base), spec.sha256, storage, cache)
        module, _, name = MODELS[place].partition(":")
        found.append(getattr(import_module(module), name)(spec, weights, device))
    return found
