"""The picture of what a model generates: one row per image, with the generated and the true maps side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unimrg_trainer.data.decode import encode_png
from unimrg_trainer.maps.base import ImageMap

GAP = 6
MARGIN = 24
_WIDEST_TILE = 256
_INK = (40, 40, 40)
_FAINT = (120, 120, 120)
_PAPER = (255, 255, 255)
_BLANK = (236, 236, 236)


@dataclass(frozen=True)
class GridRow:
    """One row of the grid: what was generated for one image. All images are uint8 [H, W, 3]."""

    label: str
    """Short: `held-out 12`, `preview 3`."""
    input: np.ndarray
    generated: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Map name → what the model generated."""
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Map name → what it should have generated, where that is known and is not the input itself."""


def columns(maps: Sequence[ImageMap]) -> list[tuple[str, str, str]]:
    """Return (caption, field of `GridRow`, map name), from left to right: the input, and for each map what was
    generated, with the truth beside it where the data has one.
    """
    found = [("input", "input", "")]
    for map in maps:
        if map.stored:
            found += [(f"{map.title}, generated", "generated", map.name), (f"{map.title}, true", "truth", map.name)]
        else:
            found.append((map.title, "generated", map.name))
    return found


def tile_scale(size: int) -> int:
    """Return how often each pixel is repeated: 4 for small images, less where 4 would pass 256 pixels."""
    return max(1, min(4, _WIDEST_TILE // size))


def tile_origin(row: int, column: int, size: int) -> tuple[int, int]:
    """Return (x, y) of the upper left pixel of a tile for images of `size` pixels."""
    side = _shown(size) + GAP
    return MARGIN + GAP + column * side, MARGIN + GAP + row * side


def draw_grid(rows: Sequence[GridRow], maps: Sequence[ImageMap], *, note: str = "") -> Image.Image:
    """Draw a column for each of `columns(maps)`; each pixel is repeated (`tile_scale`), images above 256 pixels are
    reduced by whole factors.

    The first input gives the size of a tile. `note` stands below: what ran, how many rows, the date. Raises ValueError
    for no rows.
    """
    if not rows:
        raise ValueError("there are no rows to draw")
    size = rows[0].input.shape[0]
    shown_columns = columns(maps)
    shown = _shown(size)
    right, bottom = tile_origin(len(rows), len(shown_columns), size)
    canvas = Image.new("RGB", (right, bottom + (MARGIN if note else 0)), _PAPER)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=13)
    for column, (caption, _, _) in enumerate(shown_columns):
        x, y = tile_origin(0, column, size)
        pen.text((x + shown / 2, y - GAP - 2), _fit(pen, caption, font, shown), _INK, font, anchor="ms")
    for index, row in enumerate(rows):
        y = tile_origin(index, 0, size)[1]
        canvas.paste(_sideways(_fit(pen, row.label, font, shown), font, shown), (GAP, y))
        for column, (caption, source, name) in enumerate(shown_columns):
            image = row.input if source == "input" else getattr(row, source).get(name)
            x = tile_origin(index, column, size)[0]
            if image is None:
                pen.rectangle((x, y, x + shown - 1, y + shown - 1), fill=_BLANK)
                pen.text((x + shown / 2, y + shown / 2), "none", _FAINT, font, anchor="mm")
            else:
                canvas.paste(_tile(image, shown, f"{row.label}, {caption}"), (x, y))
    if note:
        pen.text((tile_origin(0, 0, size)[0], bottom + GAP), note, _FAINT, font, anchor="lt")
    return canvas


def grid_png(rows: Sequence[GridRow], maps: Sequence[ImageMap], *, note: str = "") -> bytes:
    """Draw the grid as `draw_grid` does, and return it as PNG."""
    return encode_png(np.asarray(draw_grid(rows, maps, note=note)))


def _shown(size: int) -> int:
    return size * tile_scale(size) // -(-size // _WIDEST_TILE)


def _tile(image: np.ndarray, shown: int, name: str) -> Image.Image:
    """An image of any size, as large as a tile: pixels are repeated, or averaged where there are more of them."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"{name}: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    smaller = max(image.shape[:2]) <= shown
    resampling = Image.Resampling.NEAREST if smaller else Image.Resampling.BOX
    return Image.fromarray(np.ascontiguousarray(image)).resize((shown, shown), resampling)


def _sideways(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, length: int) -> Image.Image:
    label = Image.new("RGB", (length, MARGIN - GAP), _PAPER)
    ImageDraw.Draw(label).text((length / 2, (MARGIN - GAP) / 2), text, _INK, font, anchor="mm")
    return label.transpose(Image.Transpose.ROTATE_90)


def _fit(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut `text` so that it does not run into its neighbour."""
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "…", font) > width:
        text = text[:-1]
    return text.rstrip() + "…"
