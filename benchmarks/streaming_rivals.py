"""The rivals of `streaming.py`, which runs this file in their environment (benchmarks/streaming_rivals.txt).

python benchmarks/streaming_rivals.py NAME BASE_URL SHARD,SHARD,… SAMPLES BATCH [FIRST STATE]
python benchmarks/streaming_rivals.py pack OBJECTS SHARD,SHARD,…

Each reads and decodes SAMPLES samples in batches, shuffled, with two threads or processes, as its documentation does
it. Prints a line when the first batch is there, and one at the end. FIRST is the sample to go on from: those that keep
a state read so far first, save it in the file STATE, and end; the next call goes on from it, with nothing on its disk.
`pack` writes the members of the tars anew, byte by byte, for those that read formats of their own.
"""

from __future__ import annotations

import importlib
import io
import itertools
import json
import os
import random
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
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


def webdataset(urls: list[str], batch: int) -> Iterable[Any]:
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


def spdl_boto3(urls: list[str], batch: int) -> Iterable[Any]:
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


def own_format(urls: list[str], kind: str) -> tuple[str, str]:
    """Return the endpoint and the s3:// URI of what `pack` has written beside the tars."""
    place = urlsplit(urls[0])
    return f"{place.scheme}://{place.netloc}", f"s3://{place.path.split('/')[1]}-{kind}"


def litdata(urls: list[str], batch: int) -> Any:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    class Decoded(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> Any:
            return decode_sample(super().__getitem__(index))

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # there is no setting for it
    endpoint, uri = own_format(urls, "litdata")
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    data = Decoded(uri, cache_dir=scratch(), shuffle=True, storage_options={"endpoint_url": endpoint, **keys})
    return StreamingDataLoader(data, batch_size=batch, num_workers=2, collate_fn=stacked)


def mosaic_streaming(urls: list[str], batch: int) -> Any:
    stand_in_for_torchvision()
    mosaic: Any = importlib.import_module("streaming")  # beside this file lies another module of that name

    class Decoded(mosaic.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> Any:
            return decode_sample(super().__getitem__(index))

    endpoint, uri = own_format(urls, "mds")
    os.environ.update(S3_ENDPOINT_URL=endpoint, AWS_DEFAULT_REGION="us-east-1")
    data: Any = Decoded(remote=uri, local=scratch(), shuffle=True, batch_size=batch, shuffle_block_size=SHUFFLE)
    for stream in data.streams:
        stream._downloader.clean_up()  # its client, with its socket, would be shared by the forked workers
    return mosaic.StreamingDataLoader(data, batch_size=batch, num_workers=2, collate_fn=stacked)


def stand_in_for_torchvision() -> None:
    """mosaicml-streaming imports torchvision, of which nothing is used here, and whose wheel on PyPI needs CUDA."""

    class Anything(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    for name in ("", ".transforms", ".transforms.functional", ".datasets"):
        module: ModuleType = Anything(f"torchvision{name}")
        module.__path__ = []
        module.__spec__ = ModuleSpec(module.__name__, None)
        sys.modules.setdefault(module.__name__, module)


def scratch() -> str:
    """A folder for copies, empty, under the same name every time: litdata's state holds for one name only."""
    folder = Path(os.environ.get("STREAMING_SCRATCH", tempfile.gettempdir())) / "streaming-copies"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return str(folder)


def pack(objects: Path, tars: list[str]) -> None:
    """Write what `tars` hold, below `objects`, as litdata's chunks and as MDS, as many samples in each piece."""
    stand_in_for_torchvision()
    from litdata.streaming.writer import BinaryWriter

    samples: list[dict[str, bytes]] = []
    per_tar: dict[str, int] = {}
    for tar in tars:
        found: dict[str, dict[str, bytes]] = {}
        with tarfile.open(objects / tar) as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                content = archive.extractfile(member)
                assert content is not None
                found.setdefault(key, {})[extension] = content.read()
        samples += found.values()
        per_tar[tar] = len(found)
    row, most = tars[0].split("/")[0], max(per_tar.values())
    writer = BinaryWriter(str(objects / f"{row}-litdata"), chunk_size=most)
    for number, sample in enumerate(samples):
        writer[number] = sample
    writer.done()
    writer.merge()
    limit = sum(len(content) for sample in samples[:most] for content in sample.values())
    with importlib.import_module("streaming").MDSWriter(
        out=str(objects / f"{row}-mds"), columns=dict.fromkeys(samples[0], "bytes"), size_limit=limit
    ) as mds:
        for sample in samples:
            mds.write(sample)


MODULES = {
    "webdataset": ("torch", "webdataset"),
    "spdl + boto3": ("boto3", "spdl.pipeline"),
    "litdata": ("torch", "litdata"),
    "mosaicml-streaming": ("torch", "boto3", "streaming"),
}
RIVALS = {
    "webdataset": webdataset,
    "spdl + boto3": spdl_boto3,
    "litdata": litdata,
    "mosaicml-streaming": mosaic_streaming,
}
WITH_STATE = ("litdata", "mosaicml-streaming")
"""The others skip what was read."""


def main() -> None:
    sys.path.remove(str(Path(__file__).parent))  # where `streaming` is another module
    if sys.argv[1] == "pack":
        pack(Path(sys.argv[2]), sys.argv[3].split(","))
        return
    name, base, shards, samples, batch, *resumed = sys.argv[1:]
    urls = [f"{base}/{shard}" for shard in shards.split(",")]
    first, state = (int(resumed[0]), Path(resumed[1])) if resumed else (0, Path())
    if name == "mosaicml-streaming":
        stand_in_for_torchvision()
    for module in MODULES[name]:  # what is imported is no reading
        importlib.import_module(module)
    print("start", flush=True)
    batches: Any = RIVALS[name](urls, int(batch))
    skipped = first // int(batch)
    if first and name in WITH_STATE:
        if not state.exists():
            for _ in itertools.islice(batches, skipped):
                pass
            state.write_text(json.dumps(batches.state_dict()))
            os._exit(0)  # its workers need not read the rest
        batches.load_state_dict(json.loads(state.read_text()))
        skipped = 0
    read = 0
    for found in itertools.islice(batches, skipped, None):
        if not read:
            print("first", flush=True)
        read += len(next(iter(found.values())))
        if read >= int(samples):
            break
    print(f"end {read}", flush=True)


if __name__ == "__main__":
    main()
