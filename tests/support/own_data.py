"""Small files as people have them, prepared, and what became of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from unimrg_api.spec_platform import StorageSpec
from unimrg_api.spec_sources import SourceSpec
from unimrg_trainer.data.dataset import Dataset
from unimrg_trainer.data.shards import Manifest, read_manifest
from unimrg_trainer.preparation.prepare import prepare
from unimrg_trainer.sample import Sample
from unimrg_trainer.storage import ObjectStore

Json = dict[str, Any]


def picture(shade: int, kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """A file with a picture of one colour, 6 × 4 pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, 0, 0)).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def grey(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (6, 4), shade).save(buffer, "PNG")
    return buffer.getvalue()


def conversation(*texts: str) -> list[Json]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def run(store: ObjectStore, base: Path, source: Json, bad: str = "0.5", **options: Any) -> str:
    return prepare(
        [SourceSpec.model_validate(source)],
        base,
        store,
        lambda *_: None,
        cache=base / "cache",
        storage=StorageSpec(addressing="Path"),
        max_bad_fraction=bad,
        **options,
    ).digest


def everything(store: ObjectStore, digest: str) -> dict[str, Sample]:
    """Every sample of the data by the name of its source, with its questions in `attributes`."""
    found = {}
    for split in ("train", "heldOut"):
        data = Dataset.open(store, split, digest)
        for number in data.images:
            sample = data.image_sample(number)
            found[sample.key] = sample
    return found


def manifests(store: ObjectStore, digest: str) -> dict[str, Manifest]:
    return {split: read_manifest(store, digest[:16], split, None) for split in ("train", "heldOut")}


def questions(store: ObjectStore, digest: str) -> list[tuple[bool, str | None, str | None, Any]]:
    found = []
    for split in ("train", "heldOut"):
        data = Dataset.open(store, split, digest)
        for number in data.questions:
            sample = data.question_sample(number)
            found.append((sample.image is not None, sample.question, sample.answer, sample.attributes))
    return sorted(found, key=str)


def issues(store: ObjectStore, digest: str) -> dict[str, tuple[int, int, list[str]]]:
    """Reason → (count, left out, names), over both splits."""
    found: dict[str, tuple[int, int, list[str]]] = {}
    for manifest in manifests(store, digest).values():
        for reason, one in manifest.issues.items():
            count, left_out, names = found.get(reason, (0, 0, []))
            found[reason] = (count + one.count, left_out + one.left_out, [*names, *one.names])
    return found


def shades(store: ObjectStore, digest: str) -> dict[int, Sample]:
    return {
        int(sample.image[0, 0, 0]): sample for sample in everything(store, digest).values() if sample.image is not None
    }
