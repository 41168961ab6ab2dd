"""What judges are asked: objects of an image, their colours, and answers to questions. Free of torch.

A judge is known by the `model_type` in the config.json of its weights: built in are Mask2Former, CLIP and BLIP, and a
package adds others by entry points `unimrg.judges`, callables as `JudgeFactory`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from unimrg_api.errors import UserError
from unimrg_api.fields import resolve_uri
from unimrg_api.plugins import load
from unimrg_trainer.evaluation.benchmarks.base import BenchmarkPlace
from unimrg_trainer.evaluation.geneval import Box

if TYPE_CHECKING:
    from unimrg_trainer.preparation.producers.weights import Weights

JUDGES = {
    "mask2former": "unimrg_trainer.evaluation.judges.mask2former:Mask2Former",
    "clip": "unimrg_trainer.evaluation.judges.clip:Clip",
    "blip": "unimrg_trainer.evaluation.judges.blip:Blip",
}
"""`model_type` → factory."""
PAGE = "docs/method/evaluation.md"


@dataclass(frozen=True, eq=False)
class Found:
    """An object that a detector found."""

    box: Box
    mask: np.ndarray | None = None
    """Its pixels, bool [H, W]; None: the detector finds boxes only."""


class Judge(Protocol):
    """What all judges have. The model is loaded when it is first asked."""

    name: str
    """Of the model, in metrics and provenance, e.g. `blip`."""

    def identity(self) -> dict[str, str]:
        """Return what its judgements depend on besides what is judged: the weights' SHA-256, parity with a reference.

        Raises UserError (66) where the weights are missing.
        """
        ...


@runtime_checkable
class Detector(Judge, Protocol):
    """Finds objects of GenEval's classes."""

    def detect(self, image: np.ndarray) -> Mapping[str, Sequence[Found]]:
        """Return what an image, uint8 [H, W, 3], shows: class (`geneval.CLASSES`) → objects of any score."""
        ...


@runtime_checkable
class ColourJudge(Judge, Protocol):
    """Tells the colours of objects."""

    def colours(self, image: np.ndarray, objects: Sequence[Found], name: str) -> list[str]:
        """Return one of `geneval.COLOURS` for each of an image's objects, all of the class `name`."""
        ...


@runtime_checkable
class Answerer(Judge, Protocol):
    """Answers questions about an image in free text."""

    def answers(self, image: np.ndarray, questions: Sequence[str]) -> list[str]:
        """Return the answer to each question about an image, uint8 [H, W, 3]."""
        ...


class JudgeFactory(Protocol):
    """What a judge's name stands for."""

    def __call__(self, weights: Weights, device: str, /) -> Judge:
        """Return the judge whose weights lie there, to run on `device`. Quick: nothing is loaded yet."""
        ...


ROLES: Mapping[str, tuple[type, str]] = {
    "detector": (Detector, "finds objects"),
    "colours": (ColourJudge, "tells colours"),
    "judge": (Answerer, "answers questions about images"),
}
"""Setting of a benchmark → what the judge that it names must be."""


def open_judge(setting: str, settings: Mapping[str, Any], place: BenchmarkPlace, device: str) -> Any:
    """Return the judge that a benchmark's setting names; None: it names none. Only its config.json is read.

    Raises UserError: the file is missing (66) or no JSON (65), a model of this type is unknown or plays another role
    (64); StorageError where it cannot be fetched.
    """
    uri = settings.get(setting)
    if uri is None:
        return None
    from unimrg_trainer.preparation.producers.weights import Weights  # torch only where a judge is named

    weights = Weights(place.field, resolve_uri(uri, place.base), None, place.storage, place.cache, setting, PAGE)
    kind = str(weights.config().get("model_type"))
    field = f"{place.field}.{setting}"
    judge = cast(JudgeFactory, load("unimrg.judges", JUDGES, kind, field=field))(weights, device)
    role, does = ROLES[setting]
    if not isinstance(judge, role):
        raise UserError(
            f"{field}: {uri} holds a model of type {kind!r}, none that {does}",
            remedy=f"name another model; {PAGE} says which",
        )
    return judge
