"""Draws samples of a prepared data set, each with its image, its maps and its texts, as a PNG or an HTML page."""

from __future__ import annotations

import base64
import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimrg_api.errors import UserError
from unimrg_cli.data_view import Place
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.decode import encode_png
from unimrg_trainer.evaluation.pictures import samples_png
from unimrg_trainer.files import write_atomically
from unimrg_trainer.sample import Sample

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
    """A sample and the questions about it."""

    number: int
    sample: Sample
    questions: Sequence[tuple[str, str]]
    """(question, answer) of every turn"""


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
    data, total = Dataset.open(place.store, split, place.publication.digest), manifest.samples
    if missing := [number for number in numbers if not 0 <= number < total]:
        raise UserError(f"the split {split} has no sample {missing[0]}", remedy=f"its samples are 0 to {total - 1}")
    count = min(count, total)
    chosen = numbers or [number * total // count for number in range(count)]
    return [Shown(number, data.image_sample(number), _questions(data, number)) for number in chosen]


def write_preview(file: Path, shown: Sequence[Shown], title: str) -> None:
    """Write samples into a file, as its name says. Raises UserError where it cannot be written."""
    content = _page(shown, title).encode() if file.suffix.lower() == ".html" else _picture(shown, title)
    try:
        write_atomically(file, content)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}", remedy="name another file") from None


def _questions(data: Dataset, number: int) -> list[tuple[str, str]]:
    samples = [data.question_sample(question, maps=(), image=False) for question in data.questions_about(number)]
    first = [[{"question": one.question, "answer": one.answer}, *one.attributes.get("further", ())] for one in samples]
    return [(turn["question"] or "", turn["answer"] or "") for turns in first for turn in turns]


def _picture(shown: Sequence[Shown], title: str) -> bytes:
    return samples_png([(f"{one.number}", one.sample, _text(one)) for one in shown], title=title)


def _text(one: Shown) -> str:
    parts = [one.sample.caption or "", *(f"Q: {question}\nA: {answer}" for question, answer in one.questions)]
    lines = [
        line for part in parts for whole in part.splitlines() for line in textwrap.wrap(whole, 56, max_lines=4) if part
    ]
    return "\n".join(lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "…"])


def _page(shown: Sequence[Shown], title: str) -> str:
    return _PAGE.format(title=html.escape(title), rows="\n".join(map(_row, shown)))


def _row(one: Shown) -> str:
    pictures = {"image": one.sample.image, **one.sample.maps}
    cells = [f"<td>{name}<br>{_tag(pixels)}</td>" for name, pixels in pictures.items() if pixels is not None]
    texts = [one.sample.caption, *(f"{question}\n→ {answer}" for question, answer in one.questions)]
    said = "".join(f"<p>{html.escape(text).replace(chr(10), '<br>')}</p>" for text in texts if text)
    return f"<tr><th>{one.number}<br>{html.escape(one.sample.key)}</th><td>{said}</td>{''.join(cells)}</tr>"


def _tag(pixels: np.ndarray) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}">'
