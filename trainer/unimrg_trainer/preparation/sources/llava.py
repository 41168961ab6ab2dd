"""Conversations about images in LLaVA's form: what all records say of one image is one sample, then come texts alone.

The annotations may be larger than memory: they are gone through once, and only where each record lies is kept. Digests
of data need neither that nor the images, but the file's own digest and the listings of the folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from codecs import BOM_UTF8 as BOM
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from unimrg_api.exit_codes import ExitCode
from unimrg_api.fields import resolve_uri
from unimrg_api.spec_sources import LlavaSpec
from unimrg_trainer.preparation.base import BadItem, SourcePlace, SourceSample
from unimrg_trainer.preparation.sources.beside import VERSION, is_text, map_of, split_at_random
from unimrg_trainer.preparation.sources.files import Files
from unimrg_trainer.storage import open_store
from unimrg_trainer.storage.base import NotFound
from unimrg_trainer.storage.copies import local_file
from unimrg_trainer.storage.local import os_errors_as_storage_errors

CHUNK = 8 << 20
RECORD_BYTES = 64 << 20
"""Longest record: what has not ended by then is taken for damaged."""
_BETWEEN = re.compile(r"[\s,]*")
_IMAGE_MARK = "<image>"
_MALFORMED = "a record has no conversation of questions and answers in UTF-8"


class Llava:
    """The source `llava`."""

    def __init__(self, settings: Mapping[str, Any], place: SourcePlace) -> None:
        self._settings, self._place = LlavaSpec.model_validate(settings), place
        self._images = Files(self._settings.images, place, "images")
        given = {} if self._settings.maps is None else self._settings.maps.model_dump(exclude_none=True)
        self._maps = {name: Files(uri, place, f"maps.{name}") for name, uri in given.items()}

    def identity(self) -> Any:
        """Return the digests of the annotations and of the folders' listings, and how much is held out."""
        with self._annotations.open("rb") as file:
            annotations = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "version": VERSION,
            "annotations": annotations,
            "images": self._images.identity(),
            "maps": {name: files.identity() for name, files in self._maps.items()},
            "heldOut": self._settings.held_out,
        }

    @cached_property
    def splits(self) -> Mapping[str, int]:
        """How many items each split has. Raises JobError (65) for what is no list of records."""
        return {split: len(numbers) for split, numbers in self._numbers.items()}

    @cached_property
    def texts(self) -> Mapping[str, int]:
        """How many of them are text alone."""
        images = self._table.images
        return {split: int((numbers >= images).sum()) for split, numbers in self._numbers.items()}

    def sample(self, split: str, number: int) -> SourceSample:
        """Return an image with all that is asked about it, or a text. Raises BadItem, and as `Files.read` does."""
        item = int(self._numbers[split][number])
        records = [self._record(start, end) for start, end in self._table.records_of(item)]
        name = str(records[0].get("image") or records[0].get("id") or f"record {item}")
        found = [_question_of(record) for record in records]
        questions = [question for question in found if question is not None]
        issues = [_MALFORMED] * (len(questions) < len(found))
        if item >= self._table.images:
            if issues:
                raise BadItem(name, _MALFORMED)
            return SourceSample(questions=questions, name=name)
        if (file := self._images.listed.get(name)) is None:
            raise BadItem(name, "its image does not exist")
        maps = {map: map_of(name, self._read_map(files, name)) for map, files in self._maps.items()}
        return SourceSample(self._images.read(file), maps, questions=questions, name=name, issues=issues)

    @staticmethod
    def _read_map(files: Files, name: str) -> bytes:
        root = name.rpartition(".")[0]
        for candidate in (name, f"{root}.png", f"{root}.jpg"):
            if (file := files.listed.get(candidate)) is not None:
                return files.read(file)
        raise BadItem(name, "its map does not exist")

    def _record(self, start: int, end: int) -> dict[str, Any]:
        content = os.pread(self._descriptor, end - start, start).decode(errors="surrogateescape")
        return dict(json.loads(content, strict=False))  # as `records_in` reads it

    @cached_property
    def _descriptor(self) -> int:
        return os.open(self._annotations, os.O_RDONLY)

    @cached_property
    def _numbers(self) -> Mapping[str, np.ndarray]:
        return split_at_random(len(self._table), self._settings.held_out, self._place, self._table.images)

    @cached_property
    def _annotations(self) -> Path:
        uri = resolve_uri(self._settings.annotations, self._place.base)
        folder, _, name = uri.rpartition("/")
        if folder.startswith("file://"):
            name = unquote(name, errors="surrogateescape")
        try:
            path = local_file(open_store(folder, self._place.storage), name, self._place.cache)
        except NotFound:
            path = None
        if path is None or not path.is_file():
            raise self._refused("there is no such file", "correct the URI", ExitCode.INPUT_MISSING)
        with os_errors_as_storage_errors("read", path), path.open("rb"):
            return path

    @cached_property
    def _table(self) -> _Table:
        first: dict[str, int] = {}
        of_image, of_text = list[tuple[int, int, int]](), list[tuple[int, int]]()
        path, conversations = self._annotations, False
        try:
            for start, end, record in records_in(path):
                image = record.get("image")
                conversations = conversations or "conversations" in record
                if image:
                    of_image.append((first.setdefault(str(image), len(first)), start, end))
                else:
                    of_text.append((start, end))
        except ValueError as error:
            raise self._refused(f"it is no JSON list of records: {error}", "correct the file") from error
        if not conversations:
            found = f"none of its {len(of_image) + len(of_text)} records has `conversations`"
            raise self._refused(found, "give a JSON list of records as LLaVA has them, or one on each line")
        texts = [(len(first) + number, start, end) for number, (start, end) in enumerate(of_text)]
        rows = np.array([*of_image, *texts], dtype=np.int64).reshape(-1, 3)
        return _Table(rows[np.argsort(rows[:, 0], kind="stable")], len(first))

    def _refused(self, message: str, remedy: str, code: ExitCode = ExitCode.DATA_CORRUPT) -> Exception:
        return self._place.refused("annotations", self._settings.annotations, message, remedy, code)


@dataclass(frozen=True)
class _Table:
    """Where the records of each item lie."""

    rows: np.ndarray
    """int64 [records, 3], sorted: item, first byte, end."""
    images: int
    """Items with an image; texts follow."""

    def __len__(self) -> int:
        return int(self.rows[-1, 0]) + 1 if len(self.rows) else 0

    def records_of(self, item: int) -> list[tuple[int, int]]:
        first, end = np.searchsorted(self.rows[:, 0], [item, item + 1])
        return [(int(start), int(stop)) for _, start, stop in self.rows[first:end]]


def records_in(path: Path, chunk: int = CHUNK) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield (first byte, end, record) for each object of a JSON list, or of lines of JSON.

    Texts come with one character for each byte: only ASCII is as it should be, but for `image`. Raises ValueError.
    """
    decoder = json.JSONDecoder(strict=False)
    with path.open("rb") as file:
        before = len(BOM) if file.read(len(BOM)) == BOM else 0
        file.seek(before)
        text, at = "", 0  # `text` begins at byte `before` of the file, and is gone through up to `at`
        more, opened = True, False
        while True:
            at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
            if not opened and text[at : at + 1] == "[":
                opened, at = True, at + 1
                continue
            if text[at : at + 1] == "]" and opened:
                return
            try:
                if at == len(text):
                    raise ValueError("it ends too early")
                record, end = decoder.raw_decode(text, at)
            except RecursionError as error:
                raise ValueError(f"byte {before + at}: it is nested too deeply") from error
            except ValueError as error:
                if more and len(text) - at <= RECORD_BYTES:
                    read = file.read(chunk)
                    more = bool(read)
                    # Latin-1 maps bytes to characters one to one, so that places in the text are places in the file
                    text, before, at = text[at:] + read.decode("latin-1"), before + at, 0
                    continue
                if at == len(text) and not opened:
                    return
                raise ValueError(f"byte {before + at}: {str(error).partition(':')[0]}") from error
            if not isinstance(record, dict):
                raise ValueError(f"byte {before + at}: it is no object")
            if isinstance(image := record.get("image"), str):
                record["image"] = image.encode("latin-1", "backslashreplace").decode("utf-8", "surrogateescape")
            yield before + at, before + end, record
            at = end


def _question_of(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the first question of a record, its answer, and in `further` the turns that follow; None if malformed."""
    turns = record.get("conversations")
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns):
        return None
    speakers, texts = [turn.get("from") for turn in turns], [turn.get("value") for turn in turns]
    pairs = list(zip(texts[::2], texts[1::2], strict=False))
    asked = all(speaker in ("human", "user") for speaker in speakers[: 2 * len(pairs) : 2])
    answered = all(speaker in ("gpt", "assistant") for speaker in speakers[1 : 2 * len(pairs) : 2])
    if not (asked and answered and all(is_text(text) for pair in pairs for text in pair)):
        return None
    first, *further = [
        {"question": question.replace(_IMAGE_MARK, "").strip(), "answer": answer.strip()} for question, answer in pairs
    ]
    return {**first, **({"further": further} if further else {})}
