"""The part of a job that says which frozen models make the maps that its sources do not bring."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.alias_generators import to_snake

from unimrg_api.fields import RULES, URI_PATTERN, URI_RULES, FieldRule, Spec, possible_uri
from unimrg_api.unions import OneOf

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
WEIGHTS_PATTERN = rf"^({URI_PATTERN[1:-1]}|hf://{_NAME}/{_NAME}@[0-9a-f]{{40}})$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"

WeightsUri = Annotated[
    str,
    Field(pattern=WEIGHTS_PATTERN, max_length=512, json_schema_extra={RULES: [rule.to_json() for rule in URI_RULES]}),
    AfterValidator(possible_uri),
]
"""A URI as everywhere, or `hf://OWNER/NAME@COMMIT`: a repository of the Hugging Face hub at the commit of that hash."""


class WeightsSpec(Spec):
    """Weights of a model that is not trained."""

    weights: WeightsUri
    """What the field says that it must be, as `file://`, `s3://`, or `hf://OWNER/NAME@COMMIT` (all 40 digits) of the
    Hugging Face hub. Only safetensors are read."""
    sha256: Annotated[str, Field(pattern=SHA256_PATTERN, max_length=64)] | None = None
    """SHA-256 of the safetensors file; another content is refused. Absent: it is computed, for which every pod of the
    job fetches the file; give it for weights that are not on its own disk."""


class DepthAnythingSpec(WeightsSpec):
    """Depth Anything V2, of any size. `weights` is a folder with `config.json` and `model.safetensors` in the form of
    transformers' DepthAnythingForDepthEstimation, e.g. depth-anything/Depth-Anything-V2-Large-hf (CC-BY-NC-4.0; the
    small one is Apache-2.0)."""


class SamSpec(WeightsSpec):
    """Segment Anything, of any size: masks at a grid of points. `weights` is a folder with `config.json` and
    `model.safetensors` in the form of transformers' SamModel, e.g. facebook/sam-vit-huge (Apache-2.0)."""

    points_per_side: Annotated[int, Field(ge=1, le=128)] = 32
    """Points of the grid in each direction; the published maps have 32."""
    style: Literal["Contours", "Regions"] = "Contours"
    """What is drawn of the masks. Contours: the edges of all of them, white on black, as published. Regions: each
    filled with a colour of its own, small ones over large ones."""


class HedSpec(WeightsSpec):
    """Contours by Holistically-Nested Edge Detection. `weights` is one safetensors file, as
    `python -m tools.hed_weights` writes it."""


class DepthMapSpec(OneOf):
    """What makes depth maps."""

    members = ("depthAnything",)

    depth_anything: DepthAnythingSpec | None = None
    """Depth Anything V2."""


class SegmentationMapSpec(OneOf):
    """What makes segmentation maps."""

    members = ("sam", "hed")

    sam: SamSpec | None = None
    """Segment Anything."""
    hed: HedSpec | None = None
    """Holistically-Nested Edge Detection."""


PRODUCERS = ("depth.depthAnything", "segmentation.sam", "segmentation.hed")
"""Place of every model below `spec.data.maps`: the map that it makes, and its name."""


class MapsSpec(Spec):
    """Models that make maps of the images whose source brings none."""

    depth: DepthMapSpec | None = None
    """Depth. Absent: only what the sources bring."""
    segmentation: SegmentationMapSpec | None = None
    """Segmentation. Absent: only what the sources bring."""

    def models(self) -> dict[str, WeightsSpec]:
        """Return the models that are chosen, by their place: one of PRODUCERS."""
        found: dict[str, WeightsSpec] = {}
        for place in PRODUCERS:
            name, _, model = place.partition(".")
            chosen = getattr(self, name)
            if chosen is not None and chosen.key == model:
                found[place] = getattr(chosen, to_snake(model))
        return found

    rules = (
        FieldRule(
            "",
            "names no map",
            "name one, e.g. depth, or leave maps out",
            lambda maps: maps.depth is not None or maps.segmentation is not None,
            "has(self.depth) || has(self.segmentation)",
        ),
    )
