"""The part of a job that says what the prepare stage turns into shards, and how it works."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from unimrg_api.fields import LINE_PATTERN, Share, ShortUri, Spec

MAXIMUM_HELD_OUT = 1_000_000
MAXIMUM_WORKERS = 64

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


class PreparationSpec(Spec):
    """How data is prepared; nothing of it changes what is prepared."""

    pods: Annotated[int, Field(ge=1, le=MAXIMUM_WORKERS)] = 1
    """On a cluster, pods that prepare, each some of the shards."""
    processes: Annotated[int, Field(ge=1, le=MAXIMUM_WORKERS)] = 1
    """Processes of each pod; they take its GPUs in turn, where there are any."""
    max_bad_fraction: Share = "0.01"
    """Part of all items that may be left out because they cannot be read. Each is counted and named in the manifest;
    above this the stage fails."""
