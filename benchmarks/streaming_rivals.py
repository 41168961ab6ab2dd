"""The rivals of `streaming.py`, which runs this file in their environment (benchmarks/streaming_rivals.txt).

python benchmarks/streaming_rivals.py NAME BASE_URL SHARD,SHARD,… SAMPLES BATCH

Each reads and decodes SAMPLES samples in batches, shuffled through 1,000 samples, with two threads or processes, as its
documentation does it. Prints a line when the first batch is there, and one at the end.
"""

from __future__ import annotations

import importlib
import io
import json
import random
import sys
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import simplejpeg

SHUFFLE = 1000


def decode(name: str, content: bytes) -> Any:
    """Decode one member with the libraries that all readers use here."""
    if name.endswith("json"):
        return json.loads(content)
    if name.endswith("npy"):
        return np.load(io.BytesIO(content), allow_pickle=False)
    if name.endswith("jpg"):
        return simplejpeg.decode_jpeg(content, colorspace="RGB")
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, name
    return pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[:, :, 2::-1])


def decode_sample(sample: dict[str, Any]) -> dict[str, Any]:
    encoded = any(name.endswith("npy") for name in sample)
    return {
        name: decode(name, content)
        for name, content in sample.items()
        if not name.startswith("__") and not (encoded and name == "png")
    }


def stacked(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples whose arrays all have one shape, as arrays of a batch."""
    names = [name for name in samples[0] if name != "json"]
    return {name: np.stack([sample[name] for sample in samples]) for name in names}


def webdataset(urls: list[str], samples: int, batch: int) -> Iterable[Any]:
    import torch
    import webdataset as wds

    pipes = [f"pipe:curl -sS --retry 3 {url}" for url in urls]
    data = (
        wds.WebDataset(pipes, shardshuffle=100, seed=1, workersplitter=wds.split_by_worker)
        .shuffle(SHUFFLE)
        .map(decode_sample)
        .batched(batch, collation_fn=stacked)
    )
    return torch.utils.data.DataLoader(data, batch_size=None, num_workers=2)


def spdl_boto3(urls: list[str], samples: int, batch: int) -> Iterable[Any]:
    import boto3
    from botocore.config import Config
    from spdl.pipeline import PipelineBuilder

    place = urlsplit(urls[0])
    client = boto3.client(
        "s3",
        endpoint_url=f"{place.scheme}://{place.netloc}",
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=8),
    )
    draw = random.Random(1)
    order = draw.sample(urls, len(urls))

    def fetch(url: str) -> bytes:
        bucket, _, key = urlsplit(url).path[1:].partition("/")
        content: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def cut(tar: bytes) -> list[dict[str, bytes]]:
        """By hand: `tarfile` would cost as much as all the rest."""
        found: dict[str, dict[str, bytes]] = {}
        at = 0
        while tar[at : at + 1] not in (b"\0", b""):
            name = tar[at : at + 100].rstrip(b"\0").decode()
            size = int(tar[at + 124 : at + 135], 8)
            key, _, extension = name.partition(".")
            found.setdefault(key, {})[extension] = tar[at + 512 : at + 512 + size]
            at += 512 + -(-size // 512) * 512
        return list(found.values())

    def shuffled() -> Iterator[dict[str, bytes]]:
        buffer: list[dict[str, bytes]] = []
        shards = PipelineBuilder().add_source(order).pipe(fetch, concurrency=2).pipe(cut).add_sink(2)
        pipeline = shards.build(num_threads=2)
        with pipeline.auto_stop():
            for content in pipeline:
                for sample in content:
                    if len(buffer) < SHUFFLE:
                        buffer.append(sample)
                        continue
                    place = draw.randrange(SHUFFLE)
                    buffer[place], sample = sample, buffer[place]
                    yield sample
        draw.shuffle(buffer)
        yield from buffer

    pipeline = (
        PipelineBuilder()
        .add_source(shuffled())
        .pipe(decode_sample, concurrency=2, output_order="input")
        .aggregate(batch)
        .pipe(stacked)
        .add_sink(2)
        .build(num_threads=2)
    )

    def batches() -> Iterator[Any]:
        with pipeline.auto_stop():
            yield from pipeline

    return batches()


MODULES = {"webdataset": ("torch", "webdataset"), "spdl + boto3": ("boto3", "spdl.pipeline")}
RIVALS = {"webdataset": webdataset, "spdl + boto3": spdl_boto3}


def main() -> None:
    name, base, shards, samples, batch = sys.argv[1:]
    urls = [f"{base}/{shard}" for shard in shards.split(",")]
    read = 0
    for module in MODULES[name]:  # what is imported is no reading
        importlib.import_module(module)
    print("start", flush=True)
    for found in RIVALS[name](urls, int(samples), int(batch)):
        if not read:
            print("first", flush=True)
        read += len(next(iter(found.values())))
        if read >= int(samples):
            break
    print(f"end {read}", flush=True)


if __name__ == "__main__":
    main()
