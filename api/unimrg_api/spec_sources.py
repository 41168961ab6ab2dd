"""The part of a job that says what the prepare stage turns into shards."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from unimrg_api.fields import LINE_PATTERN, ShortUri, Spec
from unimrg_api.unions import CustomSpec, OneOf

MAXIMUM_SCENES = 10_000_000
MAXIMUM_HELD_OUT = 1_000_000

SOURCE_URIS = (
    "images.uri",
    "folder.uri",
    "webDataset.uri",
    "llava.annotations",
    "llava.images",
    "llava.maps.depth",
    "llava.maps.segmentation",
)
"""Every URI of a source, from `spec.data.sources[…]` on."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""What the names of image files end with, in small letters or large ones."""

HeldOut = Annotated[int, Field(ge=1, le=MAXIMUM_HELD_OUT)]
Licence = Annotated[str, Field(pattern=LINE_PATTERN, max_length=256)]


class OwnDataSpec(Spec):
    """What every source of images that exist has."""

    held_out: HeldOut
    """How many are kept for the evaluation; they are drawn, always the same of as many, and none of them is trained
    on."""
    licence: Licence | None = None
    """Under which licence they may be used. It is noted in the manifest of what is prepared."""


class FolderSpec(OwnDataSpec):
    """A folder of images to train on. Beside NAME.jpg may lie NAME.txt, its caption; NAME.json, with `caption` and
    `questions`, each with `question` and `answer`; and maps: NAME.depth.png, NAME.segmentation.png."""

    uri: ShortUri
    """The folder; folders in it count too."""


class WebDatasetSpec(OwnDataSpec):
    """Tars in WebDataset's form, to train on: the files of a sample follow one another and have the endings that
    those of `folder` have."""

    uri: ShortUri
    """A folder of tars, or tars by number: s3://bucket/part-{000..127}.tar."""


class LlavaMapsSpec(Spec):
    """Maps that exist: each folder has those of the images, under the same names, or with .png or .jpg instead of
    their ending."""

    depth: ShortUri | None = None
    """Folder of depth maps, near is bright."""
    segmentation: ShortUri | None = None
    """Folder of segmentation maps, white contours on black."""


class LlavaSpec(OwnDataSpec):
    """Conversations about images in the form of LLaVA: a JSON list of records (or one record on each line), each with
    `conversations`, and `image` unless it is text alone. What all records say of one image becomes one sample."""

    annotations: ShortUri
    """The JSON file."""
    images: ShortUri
    """The folder that the records' `image` counts from."""
    maps: LlavaMapsSpec | None = None
    """Maps that exist already."""


class PhotographsSpec(Spec):
    """Photographs that Python packages ship, cut into squares: a hundred images, with caption and questions. The
    packages are those of `unimrg[photographs]`. One photograph has depth; `data.maps.segmentation` makes contours."""

    held_out: Annotated[int, Field(ge=1, le=8)]
    """Photographs kept for the evaluation, with all of their squares; there are 14."""


class ScenesSpec(Spec):
    """Generated images, with exact depth, segmentation, captions and questions."""

    train: Annotated[int, Field(ge=1, le=MAXIMUM_SCENES)]
    """Scenes to train on."""
    held_out: Annotated[int, Field(ge=1, le=MAXIMUM_SCENES)]
    """Scenes kept for the evaluation; none of them is trained on."""
    image_size: Annotated[int, Field(ge=32, le=1024)]
    """Side of the square images, in pixels; below 32 the objects cannot be told apart."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)]
    """Root of the scenes' randomness: the same seed gives the same images."""


class ImagesSpec(Spec):
    """Images of a folder, for sample grids. They have no depth or segmentation and are not trained on."""

    uri: ShortUri
    """Folder of images."""


class SourceSpec(OneOf):
    """One thing that the prepare stage turns into shards."""

    members = ("scenes", "images", "folder", "llava", "webDataset", "photographs", "custom")

    scenes: ScenesSpec | None = None
    """Generated images to train on and to evaluate with."""
    images: ImagesSpec | None = None
    """Images of a folder, for sample grids."""
    folder: FolderSpec | None = None
    """Images of a folder to train on, with captions, questions and maps beside them."""
    llava: LlavaSpec | None = None
    """Conversations about images, in the form of LLaVA."""
    web_dataset: WebDatasetSpec | None = None
    """Tars in WebDataset's form."""
    photographs: PhotographsSpec | None = None
    """Photographs that Python packages ship."""
    custom: CustomSpec | None = None
    """A source of an installed package, from the entry-point group `unimrg.sources`."""
