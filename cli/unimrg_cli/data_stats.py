"""What people look at before they train: sizes of images, lengths of texts, answers, share of samples with each map."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import track

from unimrg_api.errors import UserError
from unimrg_api.load import load_job
from unimrg_cli.data_view import Place, View
from unimrg_cli.run_view import is_job_file
from unimrg_trainer.data.shards import (
    IMAGE_MEMBERS,
    TEXT_MEMBER,
    CorruptDataError,
    IndexEntry,
    Manifest,
    Shard,
    extent_of,
    read_index,
    read_members,
)

READERS = 8
"""Samples that are read at once."""
MOST_FREQUENT = 10

CountTokens = Callable[[str], int]


class Spread(View):
    """How numbers are distributed."""

    count: int
    minimum: int
    median: int
    percentile95: int
    maximum: int


class MemberStats(View):
    """A file of samples by its extension: the image, a map, an encoding, or the texts; from the indices, exact."""

    name: str
    samples: int
    share: float
    """Share of the split's samples that have it."""
    bytes: int
    """Of all these samples together."""


class TextStats(View):
    """Captions, questions or answers, of the samples that were examined."""

    characters: Spread
    tokens: Spread | None = None
    """By the tokenizer of the job's model; None where no job is given."""


class Frequent(View):
    """A value and how often it was found among the samples that were examined."""

    value: str
    count: int


class StatsReport(View):
    """The distributions of one split."""

    uri: str
    split: str
    samples: int
    questions: int
    questions_per_sample: Spread | None
    members: list[MemberStats]
    examined: int
    """Samples that were read, evenly spaced; what follows is of these."""
    widths: Spread | None
    heights: Spread | None
    sizes: list[Frequent]
    """The most frequent sizes of images, `WIDTHxHEIGHT`."""
    texts: dict[str, TextStats]
    """By what they are: caption, question, answer."""
    answers: list[Frequent]
    """The most frequent answers."""


@dataclass
class _Found:
    """What was seen so far."""

    counts: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    questions: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=lambda: {"caption": [], "question": [], "answer": []})


def measure(place: Place, split: str, limit: int, count_tokens: CountTokens | None) -> StatsReport:
    """Read all indices of a split and up to `limit` samples of it, evenly spaced, with a bar on standard error.

    Raises UserError for damage, and for a split that is not there.
    """
    (manifest,) = place.manifests(split)
    chosen = evenly(manifest.samples, limit)
    found, start = _Found(), 0
    with ThreadPoolExecutor(READERS) as pool:
        for shard in track(manifest.shards, "", console=Console(stderr=True), transient=True):
            index = read_index(place.store, place.publication.prefix, split, shard)
            for entry in index:
                found.counts.update(entry.members.keys())
                found.bytes.update({name: member.length for name, member in entry.members.items()})
            found.questions += [entry.questions for entry in index]
            entries = [index[number - start] for number in chosen if start <= number < start + len(index)]
            for texts, size in pool.map(partial(_read, place, split, shard), entries):
                _add(found, texts, size)
            start += len(index)
    return _report(place, manifest, found, len(chosen), count_tokens)


def evenly(count: int, limit: int) -> Sequence[int]:
    """Return up to `limit` of the numbers below `count`, evenly spaced."""
    return range(count) if limit >= count else [number * count // limit for number in range(limit)]


def _read(place: Place, split: str, shard: Shard, entry: IndexEntry) -> tuple[Any, tuple[int, int] | None]:
    """Return the texts of a sample and the width and height of its image, None if it has none; no image is decoded."""
    picture = next((name for name in IMAGE_MEMBERS if name in entry.members), None)
    wanted = [name for name in (TEXT_MEMBER, picture) if name is not None]
    contents = read_members(
        entry, wanted, extent_of(place.store, place.publication.prefix, split, shard, entry, wanted)
    )
    try:
        if picture is None:
            return json.loads(contents[TEXT_MEMBER]), None
        with Image.open(io.BytesIO(contents[picture])) as image:
            return json.loads(contents[TEXT_MEMBER]), image.size
    except (ValueError, OSError, Image.DecompressionBombError) as error:
        raise CorruptDataError(
            f"sample {entry.key} in {shard.name} cannot be read: {error}", remedy="prepare the data again"
        ) from error


def _add(found: _Found, texts: Any, size: tuple[int, int] | None) -> None:
    if size is not None:
        found.sizes.append(size)
    if texts.get("caption"):
        found.texts["caption"].append(texts["caption"])
    for asked in texts.get("questions", ()):
        for turn in (asked, *asked.get("further", ())):
            for kind in ("question", "answer"):
                if turn.get(kind):
                    found.texts[kind].append(turn[kind])


def _report(
    place: Place, manifest: Manifest, found: _Found, examined: int, count_tokens: CountTokens | None
) -> StatsReport:
    return StatsReport(
        uri=place.uri,
        split=manifest.split,
        samples=manifest.samples,
        questions=manifest.questions,
        questions_per_sample=_spread(found.questions),
        members=[
            MemberStats(name=name, samples=count, share=count / manifest.samples, bytes=found.bytes[name])
            for name, count in found.counts.items()
        ],
        examined=examined,
        widths=_spread(width for width, _ in found.sizes),
        heights=_spread(height for _, height in found.sizes),
        sizes=_frequent(f"{width}x{height}" for width, height in found.sizes),
        texts={kind: _text_stats(texts, count_tokens) for kind, texts in found.texts.items() if texts},
        answers=_frequent(found.texts["answer"]),
    )


def _text_stats(texts: Sequence[str], count_tokens: CountTokens | None) -> TextStats:
    characters = _spread(map(len, texts))
    assert characters is not None
    return TextStats(characters=characters, tokens=None if count_tokens is None else _spread(map(count_tokens, texts)))


def _spread(numbers: Iterable[int]) -> Spread | None:
    """Return the distribution of numbers; each percentile is one of them. None if there are none."""
    ordered = sorted(numbers)
    if not ordered:
        return None
    last = len(ordered) - 1
    return Spread(
        count=len(ordered),
        minimum=ordered[0],
        median=ordered[last // 2],
        percentile95=ordered[last * 95 // 100],
        maximum=ordered[last],
    )


def _frequent(values: Iterable[str]) -> list[Frequent]:
    return [Frequent(value=value, count=count) for value, count in Counter(values).most_common(MOST_FREQUENT)]


def token_counter(target: str) -> tuple[CountTokens | None, str]:
    """Return what counts the tokens of a text as a job's model does, where `target` is a job's file.

    Otherwise None, and why it cannot be had.
    """
    if not is_job_file(target):
        return None, ""
    from unimrg_trainer.engine.choices import open_family, provide_files
    from unimrg_trainer.launch.local import local_environment

    job = load_job(Path(target))
    env = local_environment(job, Path(target), None)
    try:
        family = open_family(job, env)
        files = [asset for asset in family.needed_files() if asset.file.endswith("tokenizer.json")]
        provide_files(job, env, family, files)
        tokenizer = getattr(family, "tokenizer", None)  # a family of a package need not have one
    except UserError as error:
        return None, str(error)
    if tokenizer is None:
        return None, f"the family {family.name} does not show its tokenizer"
    return lambda text: len(tokenizer.encode(text)), ""
