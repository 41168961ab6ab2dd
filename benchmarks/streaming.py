"""What reading samples costs beside the best that others offer: CPU, speed, first batch, resume, memory.

python benchmarks/streaming.py [--quick] [--rows ab] [--rivals PYTHON [--all]]

Needs nginx with its Lua module on the PATH; it serves the shards at full speed, and behind another port as a far object
store does: 30 ms to the first byte, 64 MB/s per connection. PYTHON is an interpreter with streaming_rivals.txt; without
it only our own reader and its limit are measured; with `--all` libraries that read formats of their own are too, which
hold the same members. All read shuffled, in batches, with two threads or processes, one process per measurement, in
turn. To resume is to bring the first batch behind three quarters of an epoch, by the far port. Rows: (a) photographs of
512 pixels (JPEG) with 8-bit depth and contours as the prepare stage writes them, (b) latents, 4 × 32 KiB, (c) the same
pictures as (a), all PNG of OpenCV; on request (d) as (a) with depth of 16 bits and a sensor's noise, as it is found.
CPU is that of the whole process tree from the start of reading on; memory is the peak of its PSS above what it had
before. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ROWS, BATCH, SIZE = ("a", "b", "c", "d"), 32, 512
RIVALS = ("webdataset", "spdl + boto3")
OTHERS = ("litdata", "mosaicml-streaming")
RESUMED = ", resumed"
RESUME_ROUNDS = 3
RESUME_TARGET = 0.35
"""Longest time to resume, in litdata's."""
TARGETS = {"webdataset": 1.5, "spdl + boto3": 1.0, "decode only": 0.85}
"""Least CPU time of each, in ours; of the limit, its share."""
PREFIX, DIGEST = "d" * 16, "d" * 64
NGINX = """
load_module {modules}/ndk_http_module.so; load_module {modules}/ngx_http_lua_module.so;
user root; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off;
events {{ worker_connections 256; }}
http {{ access_log off; sendfile on; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{fast}; root {folder}/objects; location / {{ try_files $uri =404; }} }}
  server {{ listen 127.0.0.1:{far}; root {folder}/objects; limit_rate 64m;
    location / {{ access_by_lua_block {{ ngx.sleep(0.03) }} try_files $uri =404; }} }} }}
"""


def samples_of(row: str, count: int) -> Iterator[dict[str, bytes]]:
    """Photographs of the repository, cropped, enlarged and noisy, with a smooth depth and edges; or random latents."""
    import cv2
    import simplejpeg

    from unimrg_trainer.data.decode import encode_png

    draw = np.random.default_rng(1)
    files = sorted((ROOT / "examples/photographs").glob("*.jpg"))
    photographs: list[Any] = [cv2.imread(str(path)) for path in files]
    for number in range(count):
        texts = json.dumps(
            {"caption": "A photograph.", "questions": [{"question": "?", "answer": f"{number}"}]}
        ).encode()
        if row == "b":
            arrays = {f"toy-512.{name}.npy": draw.standard_normal((16, 32, 32)) for name in ("a", "b", "c", "d")}
            yield {
                "json": texts,
                "png": png(np.zeros((8, 8, 3), np.uint8)),  # samples with an image have one; it is not decoded here
                **{name: npy(array.astype(np.float16)) for name, array in arrays.items()},
            }
            continue
        source = photographs[number % len(photographs)]
        side = int(min(source.shape[:2]) * draw.uniform(0.6, 1.0))
        top, left = (int(draw.integers(0, have - side + 1)) for have in source.shape[:2])
        image = cv2.resize(source[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + draw.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (0, 0), 6).astype(np.float32)
        depth = cv2.normalize(grey + np.linspace(0, 120, SIZE)[:, None], None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
        edges = cv2.Canny(cv2.GaussianBlur(image, (0, 0), 2), 40, 90)
        if row == "d":
            metres = 0.5 + depth / 64
            millimetres = 1000 * metres + draw.normal(0, 2 * metres**2)  # as of structured light
            depth = np.where(draw.random(depth.shape) < 0.02, 0, millimetres).astype(np.uint16)
        rgb = np.ascontiguousarray(image[:, :, ::-1])
        maps = {
            f"{name}.png": png(picture) if row == "c" or picture.dtype == np.uint16 else encode_png(picture)
            for name, picture in (("depth", depth), ("segmentation", edges))
        }
        picture = {"png": png(image)} if row == "c" else {"jpg": simplejpeg.encode_jpeg(rgb, quality=92)}
        yield {"json": texts, **picture, **maps}


def png(pixels: np.ndarray) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", pixels)[1])


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write(folder: Path, row: str, count: int) -> list[str]:
    """Write a data set; return the keys of its shards."""
    from tests.support.written_shards import write_split
    from unimrg_trainer.data.publication import Publication, publish
    from unimrg_trainer.storage import LocalStore

    store = LocalStore(folder / "objects" / row)
    made = samples_of(row, count)
    manifest = write_split(store, PREFIX, "train", count, lambda _: next(made), samples_per_shard=128)
    publish(store, Publication(digest=DIGEST, prefix=PREFIX, manifests={"train": manifest}))
    return [f"{row}/{key}" for key, _ in store.list() if key.endswith(".tar")]


def ours(endpoint: str, row: str, count: int, first: int) -> None:
    """Read `count` samples from row `first` on as training does: order, read-ahead, decoding in two threads."""
    from unimrg_api.spec_platform import StorageSpec
    from unimrg_trainer.data.dataset import Dataset
    from unimrg_trainer.data.prefetch import Prefetcher
    from unimrg_trainer.data.read_ahead import ReadAhead
    from unimrg_trainer.sample import Wanted
    from unimrg_trainer.storage.s3 import S3Store

    wanted = Wanted(maps=("depth", "segmentation"))
    if row == "b":
        wanted = Wanted((), image=False, encodings=[f"toy-512.{name}" for name in "abcd"])
    print("start", flush=True)
    store = S3Store(f"s3://{row}", StorageSpec(endpoint=endpoint, addressing="Path"))
    data = Dataset.open(store, "train", DIGEST)
    order = data.order("images", 1)
    groups = (
        [data.extent("images", order.record(number * BATCH + place), wanted) for place in range(BATCH)]
        for number in itertools.count(first // BATCH)
    )
    end = first // BATCH + -(-count // BATCH)
    with (
        ReadAhead(itertools.islice(groups, end - first // BATCH), first // BATCH) as ahead,
        ThreadPoolExecutor(2) as decoders,
    ):

        def fetch(number: int) -> dict[str, np.ndarray]:
            if number >= end:
                return {}
            with ahead.group(number) as group:
                records = [order.record(number * BATCH + place) for place in range(BATCH)]
                samples = list(decoders.map(lambda r: data.image_sample(r, wanted, group.read), records))
            arrays: list[dict[str, Any]] = [{"image": s.image, **s.maps, **s.encodings} for s in samples]
            names = [name for name, array in arrays[0].items() if array is not None]
            return {name: np.stack([one[name] for one in arrays]) for name in names}

        with Prefetcher(fetch, first // BATCH, 2) as batches:
            read = 0
            for found in batches:
                if not read:
                    print("first", flush=True)
                read += len(next(iter(found.values())))
                if read >= count:
                    break
    print(f"end {read}", flush=True)


def decode_only(folder: Path, row: str, count: int) -> None:
    """Decode the same samples from memory in two threads, and nothing else: what no reader can be faster than."""
    from unimrg_trainer.data.members import decode_member

    contents = list(samples_of(row, min(count, 32)))
    print("start", flush=True)
    print("first", flush=True)

    def decode(number: int) -> None:
        for name, content in contents[number % len(contents)].items():
            decode_member(name, content, "")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(decode, range(count)))
    print(f"end {count}", flush=True)


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    found, place = [pid], 0
    while place < len(found):
        for task in Path(f"/proc/{found[place]}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
        place += 1
    return found


def pss(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1])
    return total >> 10


def measured(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a reader; CPU-ms per sample, samples per second, seconds to the first batch, growth of memory in MiB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    times: dict[str, float] = {}
    before, peak, over = 0, 0, threading.Event()
    base_cpu = 0.0

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.2):
            peak = max(peak, pss(tree(process.pid)))

    samples = 0
    for line in process.stdout:
        word, *rest = line.split()
        times[word] = time.monotonic()
        if word == "start":
            before = pss(tree(process.pid))
            ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            base_cpu = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
            threading.Thread(target=watch, daemon=True).start()
        samples = int(rest[0]) if word == "end" else samples
    over.set()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = status
    if status or "end" not in times:
        raise SystemExit(f"{' '.join(command)} failed ({status})")
    return {
        "cpu_ms": 1000 * (used.ru_utime + used.ru_stime - base_cpu) / samples,
        "per_s": samples / (times["end"] - times["start"]),
        "first_s": times["first"] - times["start"],
        "memory_mib": max(0, peak - before),
    }


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, str]]:
    """nginx before `folder/objects`: at full speed, and like a far object store."""
    from tests.support.ports import free_port

    fast, far = free_port(), free_port()
    (folder / "nginx.conf").write_text(
        NGINX.format(folder=folder, fast=fast, far=far, modules="/usr/lib/nginx/modules")
    )
    server = subprocess.Popen(
        [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]
    )
    try:
        time.sleep(1.0)
        yield f"http://127.0.0.1:{fast}", f"http://127.0.0.1:{far}"
    finally:
        server.terminate()
        server.wait()


def median(runs: list[dict[str, float]], figure: str) -> float:
    return statistics.median(run[figure] for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description="What reading samples costs.")
    parser.add_argument("--quick", action="store_true", help="fewer samples and rounds")
    parser.add_argument("--rows", default="abc", help=f"of {', '.join(ROWS)}, e.g. ab")
    parser.add_argument("--rivals", default="", help="interpreter of the rivals' environment")
    parser.add_argument("--all", action="store_true", help="also those that read formats of their own")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        name, place, row, count, first = chosen.one
        if name == "ours":
            ours(place, row, int(count), int(first))
        else:
            decode_only(Path(place), row, int(count))
        return
    rounds, counts = (
        (2, {"a": 256, "b": 768, "c": 256, "d": 256})
        if chosen.quick
        else (5, {"a": 1920, "b": 3840, "c": 960, "d": 960})
    )
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **keys, "PYTHONWARNINGS": "ignore"}
    rivals = (*RIVALS, *(OTHERS if chosen.all else ())) if chosen.rivals else ()
    script = str(ROOT / "benchmarks/streaming_rivals.py")
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="streaming-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        environment["STREAMING_SCRATCH"] = name
        shards = {row: ",".join(write(folder, row, count)) for row, count in counts.items() if row in chosen.rows}
        for row in chosen.rows if chosen.all else "":
            subprocess.run([chosen.rivals, script, "pack", f"{name}/objects", shards[row]], check=True)
        with serving(folder) as (fast, far):
            me = [sys.executable, __file__, "--one"]
            for row, number in itertools.product(chosen.rows, range(rounds)):
                count, later = str(counts[row]), str(counts[row] * 3 // 4 // BATCH * BATCH)
                commands = {
                    "ours": [*me, "ours", fast, row, count, "0"],
                    "decode only": [*me, "decode", name, row, count, "0"],
                    "far": [*me, "ours", far, row, count, "0"],
                    f"ours{RESUMED}": [*me, "ours", far, row, "64", later],
                }
                for rival in rivals:
                    reading = [chosen.rivals, script, rival]
                    commands[rival] = [*reading, fast, shards[row], count, str(BATCH)]
                    if number >= RESUME_ROUNDS:
                        continue
                    state = f"{name}/{row}-{rival}"
                    commands[rival + RESUMED] = [*reading, far, shards[row], "64", str(BATCH), later, state]
                    if number == 0 and rival in OTHERS:  # which save a state the first time
                        subprocess.run(
                            [*commands[rival + RESUMED]], check=True, env=environment, stdout=subprocess.DEVNULL
                        )
                order = list(commands) if number % 2 == 0 else list(reversed(commands))
                for reader in order:
                    run = measured(commands[reader], environment)
                    results.setdefault(row, {}).setdefault(reader, []).append(run)
                    print(f"{row} {reader}: {json.dumps({k: round(v, 3) for k, v in run.items()})}", flush=True)
    figures = {
        f"{row} {reader}": {figure: round(median(runs, figure), 3) for figure in runs[0]}
        for row, readers in results.items()
        for reader, runs in readers.items()
    }
    ratio: dict[str, list[float]] = {}
    for row, readers in results.items():
        for reader in ("decode only", *rivals):
            pairs = zip(readers.get(reader, []), readers["ours"], strict=False)
            if found := sorted(other["cpu_ms"] / mine["cpu_ms"] for other, mine in pairs):
                ratio[f"{row} {reader}"] = [
                    round(value, 3) for value in (statistics.median(found), found[0], found[-1])
                ]
        memory = [median(readers[rival], "memory_mib") for rival in rivals]
        if memory:
            mine = median(readers["ours"], "memory_mib")
            ratio[f"{row} memory"] = [round(mine / max(1.0, min(memory)), 3)]
        resumed = {reader: median(readers[reader + RESUMED], "first_s") for reader in ("ours", *rivals)}
        ratio[f"{row} resume"] = [round(resumed["ours"] / median(readers["far"], "first_s"), 3)]
        ratio |= {f"{row} resume, {rival}": [round(resumed["ours"] / resumed[rival], 3)] for rival in rivals}
    holds = {
        key: values[0] >= TARGETS[reader]
        for key, values in ratio.items()
        if (reader := key[2:]) in TARGETS and (reader != "decode only" or key[0] == "a") and key[0] in "ab"
    }
    holds |= {key: values[0] <= 1.0 for key, values in ratio.items() if key.endswith("memory")}
    holds |= {key: values[0] <= RESUME_TARGET for key, values in ratio.items() if key.endswith("resume, litdata")}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(
        json.dumps(
            {
                "name": "streaming",
                "figures": figures,
                "ratio": ratio,
                "target": TARGETS,
                "holds": holds,
                "machine": machine,
            }
        )
    )


if __name__ == "__main__":
    main()
