"""What preparing maps costs beside the models: post-processing and packing, and how two processes share the work.

python benchmarks/prepare.py [--quick] [--samples N] [--repeats N]

Samples are JPEGs of 640 × 480 pixels; in place of the models stand their outputs, depth as float32 and 40 masks for
each image. *Packing* makes shards from them as the prepare stage does: files are looked at, depth is stretched,
contours are drawn, both are encoded, and a shard with its index is stored. Its limit is what no writer could leave
out, called by hand on the same arrays: decode the file once, Canny on each mask's pixels, minimum, maximum and one
product, two deflations, one copy, SHA-256 and CRC. *Sharing* is the packing by one process, and by two of which
each makes every second shard. Rivals alternate. CPU seconds count, for they do not depend on what else the machine
does; of two processes the slower one's. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import simplejpeg

from unimrg_trainer.preparation import items
from unimrg_trainer.preparation.base import SourceSample
from unimrg_trainer.preparation.items import Items
from unimrg_trainer.preparation.make import Maker
from unimrg_trainer.preparation.producers.depth_anything import grey
from unimrg_trainer.preparation.producers.masks import contours, cut_out
from unimrg_trainer.preparation.write import put_shard
from unimrg_trainer.storage import LocalStore

HEIGHT, WIDTH, MASKS, KINDS = 480, 640, 40, 8
"""KINDS: how many different images there are."""
PACKING_TARGET, SHARING_TARGET = 0.9, 1.8
SAMPLES_PER_SHARD = 16


class Outputs:
    """Images and what models would say about them, by number; equal in every process."""

    def __init__(self) -> None:
        rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
        self.files, self.depths, self.masks = [], [], []
        for kind in range(KINDS):
            rng = np.random.default_rng(kind)
            waves = [np.sin(rows / a + columns / b) for a, b in rng.uniform(20, 90, (3, 2))]
            noise = rng.normal(0, 6, (HEIGHT, WIDTH, 3))
            image = (np.stack(waves, axis=2) * 90 + 128 + noise).clip(0, 255).astype(np.uint8)
            self.files.append(simplejpeg.encode_jpeg(image, quality=90))
            self.depths.append((rows / HEIGHT + waves[0] / 8 + rng.normal(0, 1e-3, rows.shape)).astype(np.float32))
            self.masks.append([self._ellipse(rng, rows, columns) for _ in range(MASKS)])

    def file(self, number: int) -> bytes:
        """Return a JPEG that no other number has: behind its end stands the number."""
        return bytes(self.files[number % KINDS]) + number.to_bytes(8)

    @staticmethod
    def _ellipse(rng: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        (y, x), (a, b) = rng.uniform((0, 0), (HEIGHT, WIDTH)), rng.uniform(15, 120, 2)
        mask: np.ndarray = ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1
        return mask


class Planted:
    """The source: every image comes as its file."""

    texts: Mapping[str, int] = {}

    def __init__(self, outputs: Outputs, count: int) -> None:
        self._outputs = outputs
        self.splits: Mapping[str, int] = {"train": count}

    def identity(self) -> Any:
        return "planted"

    def sample(self, split: str, number: int) -> SourceSample:
        return SourceSample(self._outputs.file(number))


class PlantedMaps:
    """Producers whose model is a list: images come in the order of their numbers, from `first` on."""

    def __init__(self, name: str, make: Callable[[int], np.ndarray], first: int) -> None:
        self.map, self._make, self._next = name, make, first

    def identity(self) -> Any:
        return "planted"

    def produce(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        numbers = range(self._next, self._next + len(images))
        self._next = numbers.stop
        return [self._make(number % KINDS) for number in numbers]


def pack(outputs: Outputs, folder: Path, count: int, worker: int = 0, workers: int = 1) -> None:
    """Make every `workers`-th shard as the prepare stage does."""
    store, split = LocalStore(folder), Items([Planted(outputs, count)], "train")
    for number, part in enumerate(split.parts()):
        if number % workers == worker:
            depth = PlantedMaps("depth", lambda kind: grey(outputs.depths[kind]), part.numbers.start)
            lines = PlantedMaps("segmentation", lambda kind: _contours(outputs.masks[kind]), part.numbers.start)
            put_shard(store, "data", part, Maker([depth, lines]).make(split, part))


def _contours(masks: Sequence[np.ndarray]) -> np.ndarray:
    return contours([found for mask in masks if (found := cut_out(mask)) is not None], HEIGHT, WIDTH)


def limit(outputs: Outputs, folder: Path, count: int) -> None:
    """Do by hand what no writer could leave out."""
    for start in range(0, count, SAMPLES_PER_SHARD):
        tar = bytearray()
        for number in range(start, min(start + SAMPLES_PER_SHARD, count)):
            file, depth = outputs.file(number), outputs.depths[number % KINDS]
            simplejpeg.decode_jpeg(file)
            low, high = depth.min(), depth.max()
            stretched = ((depth - low) / (high - low) * 255).astype(np.uint8)
            lines = np.zeros((HEIGHT, WIDTH), np.uint8)
            for mask in outputs.masks[number % KINDS]:
                left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
                box = slice(top, top + height), slice(left, left + width)
                np.maximum(lines[box], cv2.Canny(mask[box].view(np.uint8) * 255, 100, 200), out=lines[box])
            for content in (file, zlib.compress(stretched.tobytes(), 6), zlib.compress(lines.tobytes(), 6)):
                zlib.crc32(content)
                tar += content
        hashlib.sha256(tar)
        (folder / f"{start}.tar").write_bytes(tar)


def _cpu(work: Callable[..., None], *arguments: Any) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        work(arguments[0], Path(folder), *arguments[1:])
        return time.process_time() - started


_outputs: Outputs


def _begin(samples_per_shard: int) -> None:
    global _outputs
    items.ITEMS_PER_SHARD = samples_per_shard
    cv2.setNumThreads(1)
    _outputs = Outputs()


def _share(count: int, worker: int, workers: int) -> tuple[float, float]:
    started, wall = time.process_time(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        pack(_outputs, Path(folder), count, worker, workers)
    return time.process_time() - started, time.monotonic() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples and repeats")
    parser.add_argument("--samples", type=int, help="samples of each run")
    parser.add_argument("--repeats", type=int, help="times that each rival runs")
    options = parser.parse_args()
    count = options.samples or (64 if options.quick else 256)
    repeats = options.repeats or (3 if options.quick else 7)
    _begin(SAMPLES_PER_SHARD)
    packing: list[dict[str, float]] = []
    sharing: list[dict[str, float]] = []
    with ProcessPoolExecutor(2, get_context("spawn"), _begin, (SAMPLES_PER_SHARD,)) as pool:
        list(pool.map(_share, [SAMPLES_PER_SHARD] * 2, (0, 0), (1, 1)))  # both have begun
        for round_ in range(repeats + 1):
            ours, floor = _cpu(pack, _outputs, count), _cpu(limit, _outputs, count)
            ((one, one_wall),) = pool.map(_share, [count], [0], [1])
            shares = list(pool.map(_share, [count] * 2, (0, 1), (2, 2)))
            if round_:  # the first warms up
                packing.append({"ours": ours / count * 1e3, "limit": floor / count * 1e3, "ratio": floor / ours})
                slower, slower_wall = (max(share[kind] for share in shares) for kind in (0, 1))
                sharing.append({"ratio": one / slower, "wall_ratio": one_wall / slower_wall})
    figures = {
        "packing_cpu_ms": _median(packing, "ours"),
        "packing_limit_cpu_ms": _median(packing, "limit"),
        "packing": _median(packing, "ratio"),
        "two_processes": _median(sharing, "ratio"),
        "two_processes_wall": _median(sharing, "wall_ratio"),
        "load": round(os.getloadavg()[0], 1),
    }
    print(f"packing {figures['packing_cpu_ms']} CPU-ms for a sample, {figures['packing']} of the limit's speed")
    print(f"two processes {figures['two_processes']} × one by CPU time, {figures['two_processes_wall']} × by the clock")
    result = {
        "name": "prepare",
        "figures": figures,
        "ratio": {"packing": figures["packing"], "two_processes": figures["two_processes"]},
        "target": {"packing": PACKING_TARGET, "two_processes": SHARING_TARGET},
        "holds": figures["packing"] >= PACKING_TARGET and figures["two_processes"] >= SHARING_TARGET,
        "machine": f"{os.cpu_count()} × {platform.processor() or platform.machine()}, {platform.system()}",
    }
    print(json.dumps(result))


def _median(rounds: Sequence[Mapping[str, float]], name: str) -> float:
    return round(statistics.median(each[name] for each in rounds), 3)


if __name__ == "__main__":
    main()
