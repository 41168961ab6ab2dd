"""The family's frozen encoder as the prepare stage runs it, over what the job's objectives read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import JobError, Problem
from unimrg_api.job import UniMRGJob
from unimrg_api.plugins import package_of
from unimrg_trainer.data.members import encoding_member
from unimrg_trainer.engine.choices import open_family, provide_files
from unimrg_trainer.engine.setup import require_gpu
from unimrg_trainer.files import file_sha256
from unimrg_trainer.models.base import Family
from unimrg_trainer.models.common.unique_images import UniqueImages
from unimrg_trainer.objectives.base import Objective
from unimrg_trainer.objectives.registry import objective
from unimrg_trainer.sample import Sample

VERSION = 1
"""Goes up when this code makes another array of the same picture and weights; part of the digest of prepared data."""


def open_encoder(job: UniMRGJob, env: PodEnvironment) -> FamilyEncoder:
    """Return the encoder of the job's model; its weights are fetched to this node.

    It encodes on the first GPU, for a job that has any. Raises JobError where the model has nothing to encode, and
    UserError (INPUT_MISSING) where weights are missing.
    """
    family = open_family(job, env)
    weights = family.encoder_file()
    if weights is not None:
        provide_files(job, env, family, [weights])
    objectives = [objective(name) for name, weight in job.spec.resolved_objectives().items() if weight > 0]
    square = job.spec.training.batch.image_sharing == "All"
    return FamilyEncoder(family, objectives, job.spec.trainer.gpus_per_node, square=square)


class FamilyEncoder:
    """Encodes whatever some objectives' rows read encoded; with `square` of samples padded to squares."""

    def __init__(self, family: Family, objectives: Sequence[Objective], gpus: int = 0, *, square: bool = False) -> None:
        self._family, self._objectives, self._gpus, self._square = family, objectives, gpus, square
        readings = [family.reading(objective.map) for objective in objectives]
        found = {encoding.name: encoding for reading in readings for encoding in reading.encodings}
        if not found:
            learnt = ", ".join(objective.name for objective in objectives)
            message = f"nothing that {family.name} reads for {learnt} can be encoded ahead of training"
            raise JobError([Problem("spec.data.imageEncoding", "Prepared", message, "use Online")])
        self._encodings = [found[name] for name in sorted(found)]

    def identity(self) -> Any:
        """Return what is encoded, with which weights (the sha256 of their file), and by which packages beside us."""
        weights = self._family.encoder_file()
        digest = None if weights is None else file_sha256(weights.find(self._family.assets))
        names = [encoding_member(encoding.name, square=self._square) for encoding in self._encodings]
        maps = [("unimrg.maps", each.map.name) for each in self._objectives if each.map is not None]
        found = {package_of(group, name) for group, name in [("unimrg.families", self._family.name), *maps]}
        packages = sorted(package for package in found if package is not None)
        return {"version": VERSION, "members": names, "weights": digest, "packages": packages}

    def encode(self, samples: Sequence[Sample]) -> list[Mapping[str, np.ndarray]]:
        """Return the arrays of each sample by their members; equal pictures are encoded once.

        Raises UserError (80) without the GPU that the job asks for.
        """
        if self._gpus:
            require_gpu(self._gpus)
        for sample in samples:
            for each in self._objectives:
                sample.require(each.name, maps=[each.map.name] if each.map is not None and each.map.stored else [])
        shown = [sample.squared() for sample in samples] if self._square else samples
        unique = {encoding.encoder.name: UniqueImages(encoding.encoder) for encoding in self._encodings}
        places = [{each: unique[each.encoder.name].add(sample, each) for each in self._encodings} for sample in shown]
        arrays = {name: self._run(images) for name, images in unique.items()}
        return [
            {
                encoding_member(each.name, square=self._square): arrays[each.encoder.name][index]
                for each, index in found.items()
            }
            for found in places
        ]

    def _run(self, images: UniqueImages) -> np.ndarray:
        pixels = images.collected().pixels.to("cuda" if self._gpus else "cpu")
        encoded: np.ndarray = self._family.encode(pixels).cpu().numpy()
        return encoded
