"""Draws samples of a prepared data set, each with its image, its maps and its texts, as a PNG or an HTML page."""

from __future__ import annotations

import base64
import html
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimrg_api.errors import UserError
from unimrg_cli.data_stats import evenly
from unimrg_cli.data_view import Place
from unimrg_trainer.data.decode import encode_png
from unimrg_trainer.data.members import decode_member
from unimrg_trainer.data.shards import (
    IMAGE_MEMBERS,
    TEXT_MEMBER,
    IndexEntry,
    Shard,
    extent_of,
    read_index,
    read_members,
)
from unimrg_trainer.evaluation.pictures import samples_png
from unimrg_trainer.files import write_atomically

SUFFIXES = (".png", ".html")
_LINES = 14
"""Lines of text that fit beside a picture."""
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{font: 14px sans-serif}} td {{vertical-align: top; padding: 4px}} img {{max-width: 256px}}</style>
<h1>{title}</h1>
<table>
{rows}
</table>
</html>
"""


@dataclass(frozen=True)
class Shown:
    """A sample as it is stored, without what a model's encoder made of it."""

    number: int
    key: str
    name: str
    """What its source calls it."""
    pictures: Mapping[str, np.ndarray]
    """`image`, and maps by name; uint8 [H, W] or [H, W, 3]."""
    caption: str
    questions: Sequence[tuple[str, str]]
    """(question, answer) of every turn."""


def check_target(file: Path) -> None:
    """Raise UserError unless a picture can be written under this name."""
    if file.suffix.lower() not in SUFFIXES:
        raise UserError(f"{file} is neither a PNG nor an HTML file by its name", remedy=f"end it with {SUFFIXES[0]}")
    if not file.parent.is_dir():
        raise UserError(f"the folder {file.parent} does not exist", remedy="create it, or name another")


def read_samples(place: Place, split: str, numbers: Sequence[int], count: int) -> list[Shown]:
    """Read the samples of a split with these numbers or, without any, `count` that are evenly spaced.

    Raises UserError for damage, and for a number or split that is not there.
    """
    (manifest,) = place.manifests(split)
    total = manifest.samples
    if missing := [number for number in numbers if not 0 <= number < total]:
        raise UserError(f"the split {split} has no sample {missing[0]}", remedy=f"its samples are 0 to {total - 1}")
    chosen = numbers or evenly(total, count)
    found, start = dict[int, Shown](), 0
    for shard in manifest.shards:
        inside = [number for number in chosen if start <= number < start + shard.samples]
        index = read_index(place.store, place.publication.prefix, split, shard) if inside else []
        found |= {number: _read(place, split, shard, index[number - start], number) for number in inside}
        start += shard.samples
    return [found[number] for number in chosen]


def _read(place: Place, split: str, shard: Shard, entry: IndexEntry, number: int) -> Shown:
    shown = [name for name in entry.members if name == TEXT_MEMBER or name.endswith(("png", "jpg"))]
    contents = read_members(entry, shown, extent_of(place.store, place.publication.prefix, split, shard, entry, shown))
    read = {name: decode_member(name, content, f"{entry.key} in {shard.name}")[0] for name, content in contents.items()}
    texts = read.pop(TEXT_MEMBER)
    pictures = {"image" if name in IMAGE_MEMBERS else name.removesuffix(".png"): read[name] for name in read}
    turns = [turn for asked in texts.get("questions", ()) for turn in (asked, *asked.get("further", ()))]
    return Shown(
        number,
        entry.key,
        texts.get("name") or "",
        {name: pictures[name] for name in sorted(pictures, key=lambda name: (name != "image", name))},
        texts.get("caption") or "",
        [(str(turn.get("question", "")), str(turn.get("answer", ""))) for turn in turns],
    )


def write_preview(file: Path, shown: Sequence[Shown], title: str) -> None:
    """Write samples into a file, as its name says. Raises UserError where it cannot be written."""
    content = _page(shown, title).encode() if file.suffix.lower() == ".html" else _picture(shown, title)
    try:
        write_atomically(file, content)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}", remedy="name another file") from None


def _picture(shown: Sequence[Shown], title: str) -> bytes:
    return samples_png([(f"{one.number}", one.pictures, _text(one)) for one in shown], title=title)


def _text(one: Shown) -> str:
    parts = [one.caption, *(f"Q: {question}\nA: {answer}" for question, answer in one.questions)]
    lines = [
        line for part in parts for whole in part.splitlines() for line in textwrap.wrap(whole, 56, max_lines=4) if part
    ]
    return "\n".join(lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "…"])


def _page(shown: Sequence[Shown], title: str) -> str:
    return _PAGE.format(title=html.escape(title), rows="\n".join(map(_row, shown)))


def _row(one: Shown) -> str:
    cells = [f"<td>{html.escape(name)}<br>{_tag(pixels)}</td>" for name, pixels in one.pictures.items()]
    texts = [one.caption, *(f"{question}\n→ {answer}" for question, answer in one.questions)]
    paragraphs = "".join(f"<p>{html.escape(text).replace(chr(10), '<br>')}</p>" for text in texts if text)
    named = "<br>".join(html.escape(text) for text in (str(one.number), one.key, one.name) if text)
    return f"<tr><th>{named}</th><td>{paragraphs}</td>{''.join(cells)}</tr>"


def _tag(pixels: np.ndarray) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}">'
