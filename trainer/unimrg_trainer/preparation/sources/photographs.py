"""Photographs that installed Python packages ship, cut into squares: something real to train on where nothing else is.

One of them, the motorcycle, has true depth. Contours come from a producer (`spec.data.maps`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from unimrg_api.errors import JobError, Problem
from unimrg_api.exit_codes import ExitCode
from unimrg_api.spec_sources import PhotographsSpec
from unimrg_trainer.files import file_sha256
from unimrg_trainer.preparation.base import SourcePlace, SourceSample

VERSION = 1
"""Goes up when this code makes other samples of the same files."""
LARGEST = 256
"""A square of more pixels' side is reduced to this."""


@dataclass(frozen=True)
class Photograph:
    """A photograph in an installed package."""

    package: str
    file: str
    """Path below the folder that packages are installed in."""
    shows: str
    licence: str
    disparity: str | None = None
    """Path of an archive of NumPy with its true disparity; not finite where it is unknown."""


def _skimage(name: str, shows: str, licence: str, disparity: str | None = None) -> Photograph:
    archive = None if disparity is None else f"skimage/data/{disparity}"
    return Photograph("scikit-image", f"skimage/data/{name}", shows, licence, archive)


def _sklearn(name: str, shows: str, author: str) -> Photograph:
    return Photograph("scikit-learn", f"sklearn/datasets/images/{name}", shows, f"CC BY 2.0, {author} (Flickr)")


PHOTOGRAPHS = (
    _skimage(
        "motorcycle_left.png",
        "a motorcycle in a garage",
        "none stated; Middlebury 2014 stereo data (Scharstein et al., GCPR 2014), for research",
        disparity="motorcycle_disp.npz",
    ),
    _skimage("astronaut.png", "an astronaut", "public domain (NASA)"),
    _skimage("chelsea.png", "a cat", "CC0, Stefan van der Walt"),
    _skimage("coffee.png", "a cup of coffee", "CC0, Rachel Michetti"),
    _sklearn("china.jpg", "a temple", "danielbuechele"),
    _skimage("camera.png", "a man with a camera", "CC0, Lav Varshney"),
    _skimage("coins.png", "old coins", "no known restrictions (Brooklyn Museum)"),
    _skimage("brick.png", "a brick wall", "CC0 (CC0Textures)"),
    _skimage("grass.png", "grass", "CC0 (linolafett)"),
    _skimage("gravel.png", "gravel", "CC0 (CC0Textures)"),
    _skimage("rocket.jpg", "the launch of a rocket", "public domain (SpaceX)"),
    Photograph(
        "matplotlib",
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "a woman in uniform",
        "public domain (U.S. Navy)",
    ),
    _skimage("clock_motion.png", "a blurred clock", "public domain, Stefan van der Walt"),
    _sklearn("flower.jpg", "a flower", "vultilion"),
)
"""The last ones are held out."""


@dataclass(frozen=True)
class Square:
    """A square of a photograph, in its pixels."""

    photograph: Photograph
    top: int
    left: int
    side: int


class Photographs:
    """The source `photographs` (docs/method/producers.md#photographs)."""

    def __init__(self, settings: Mapping[str, Any], place: SourcePlace) -> None:
        held_out = PhotographsSpec.model_validate(settings).held_out
        self._paths = _find(place.field)
        chosen = {"train": PHOTOGRAPHS[:-held_out], "heldOut": PHOTOGRAPHS[-held_out:]}
        self._squares = {
            split: [square for photograph in photographs for square in self._cut(photograph)]
            for split, photographs in chosen.items()
        }
        self.splits = {split: len(squares) for split, squares in self._squares.items()}
        self.texts: dict[str, int] = {}

    def identity(self) -> Any:
        """Return the photographs of each split, with licence and digests of their files, and this code's version."""
        splits = {split: list(dict.fromkeys(s.photograph for s in squares)) for split, squares in self._squares.items()}
        entries = {
            split: [
                {**asdict(each), "sha256": {name: file_sha256(self._paths[name]) for name in _files(each)}}
                for each in photographs
            ]
            for split, photographs in splits.items()
        }
        return {"version": VERSION, **entries}

    def sample(self, split: str, number: int) -> SourceSample:
        """Return a square, with what the photograph shows as caption and answer, and with depth where it is known."""
        square = self._squares[split][number]
        photograph = square.photograph
        pixels = _pixels(self._paths[photograph.file])
        maps = {}
        if photograph.disparity is not None:
            maps["depth"] = _depth(_cut_out(_disparity(self._paths[photograph.disparity]), square))
        grey = bool((pixels == pixels[:, :, :1]).all())
        questions = [
            {"kind": "subject", "question": "What was photographed here?", "answer": photograph.shows},
            {"kind": "colour", "question": "Is this photograph in colour?", "answer": "no" if grey else "yes"},
        ]
        caption = f"A photograph of {photograph.shows}."
        name = f"{photograph.file} at ({square.left}, {square.top}), {square.side} pixels"
        return SourceSample(_cut_out(pixels, square), maps, caption, questions, name)

    def _cut(self, photograph: Photograph) -> list[Square]:
        """Return squares of the shorter side, and of half of it, side by side; together they cover everything."""
        with Image.open(self._paths[photograph.file]) as image:
            width, height = image.size
        shorter = min(width, height)
        return [
            Square(photograph, top, left, side)
            for side in (shorter, (shorter + 1) // 2)
            for top in _starts(height, side)
            for left in _starts(width, side)
        ]


def _files(photograph: Photograph) -> list[str]:
    return [photograph.file, *([] if photograph.disparity is None else [photograph.disparity])]


def _find(field: str) -> dict[str, Path]:
    """Return the path of every file. Raises JobError (66) that names the packages without them."""
    found, lacking = {}, set()
    for photograph in PHOTOGRAPHS:
        for name in _files(photograph):
            try:
                path = Path(str(distribution(photograph.package).locate_file(name)))
            except PackageNotFoundError:
                lacking.add(photograph.package)
                continue
            if not path.is_file():
                lacking.add(photograph.package)
            found[name] = path
    if lacking:
        packages = " and ".join(sorted(lacking))
        message = f"the photographs of {packages} are not installed"
        remedy = "pip install 'unimrg[photographs]', in the job's image for a cluster"
        raise JobError([Problem(field, "", message, remedy, exit_code=ExitCode.INPUT_MISSING)])
    return found


def _starts(length: int, side: int) -> list[int]:
    """Return where squares of a side begin so that they cover a length, as few as can be and evenly spread."""
    count = -(-length // side)
    return [round(index * (length - side) / max(count - 1, 1)) for index in range(count)]


@lru_cache(maxsize=4)
def _pixels(path: Path) -> np.ndarray:
    """Return a photograph: uint8 [H, W, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@lru_cache(maxsize=1)
def _disparity(path: Path) -> np.ndarray:
    """Return the disparity, float32 [H, W]; where it is unknown, the smaller one of the nearest known in the row.

    It is unknown where only one of the two cameras saw something, and what is hidden from one is the farther thing.
    """
    with np.load(path, allow_pickle=False) as archive:
        disparity: np.ndarray = archive["arr_0"].astype(np.float32)
    known = np.isfinite(disparity)
    columns = np.arange(disparity.shape[1])
    before = np.maximum.accumulate(np.where(known, columns, -1), axis=1)
    after = np.minimum.accumulate(np.where(known, columns, columns.size)[:, ::-1], axis=1)[:, ::-1]
    rows = np.arange(disparity.shape[0])[:, None]
    left = np.where(before >= 0, disparity[rows, before.clip(min=0)], np.inf)
    right = np.where(after < columns.size, disparity[rows, after.clip(max=columns.size - 1)], np.inf)
    filled: np.ndarray = np.where(known, disparity, np.minimum(left, right))
    return filled


def _depth(disparity: np.ndarray) -> np.ndarray:
    """Return depth as it is stored, uint8: disparity stretched to 0–255, nearer is brighter; constant: 0."""
    low, high = disparity.min(), disparity.max()
    stretched: np.ndarray = np.round((disparity - low) / max(high - low, 1e-6) * 255).astype(np.uint8)
    return stretched


def _cut_out(image: np.ndarray, square: Square) -> np.ndarray:
    cut = image[square.top : square.top + square.side, square.left : square.left + square.side]
    if square.side <= LARGEST:
        return np.ascontiguousarray(cut)
    reduced: np.ndarray = cv2.resize(cut, (LARGEST, LARGEST), interpolation=cv2.INTER_AREA)
    return reduced
