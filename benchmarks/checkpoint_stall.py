"""How long a checkpoint holds the training up, beside a synchronous save and torch.distributed.checkpoint's async_save.

python benchmarks/checkpoint_stall.py [--quick] [--repeats N]

One process trains on one thread and saves a state of 300 MB (`--quick`: 64 MB) to a real S3 server behind a relay that
passes 64 MB/s. Each round saves in three ways, in turn: waiting for the commit; in the background; and with async_save,
whose files go through the same relay. The stall is the time that the training thread spends in the save, with the copy
of the state and without the steps after it; what the steps take longer while the upload goes on is reported as added
time, over that of the steps just before and after. A ratio is the median of those within one round. Ends with one line
of JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import async_save

from tests.support.s3_server import S3Server
from unimrg_api.spec_platform import StorageSpec
from unimrg_trainer.checkpoint.agreement import TorchAgreement
from unimrg_trainer.checkpoint.checkpointer import Checkpointer
from unimrg_trainer.checkpoint.retention import Policy
from unimrg_trainer.checkpoint.state import LocalState, Piece
from unimrg_trainer.checkpoint.writer import Origin
from unimrg_trainer.storage.s3 import S3Store

BYTES_PER_SECOND = 64_000_000
TARGET = 0.05
"""Largest share of a synchronous save that a save in the background may hold the training up."""
BASE_STEPS = 10
BLOCK = 1 << 16


class Relay:
    """Passes what clients send on to a server, all of them together at BYTES_PER_SECOND; answers are not held up."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._target))
            for source, sink, limited in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, limited), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, limited: bool) -> None:
        try:
            while data := source.recv(BLOCK):
                if limited:
                    with self._lock:
                        now = time.monotonic()
                        self._free_at = max(now, self._free_at) + len(data) / BYTES_PER_SECOND
                        wait = self._free_at - now
                    time.sleep(wait)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            sink.close()


class UploadingFiles(FileSystem):
    """Files of torch.distributed.checkpoint that are put into the store as soon as they are closed."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        with super().create_stream(path, mode) as stream:
            yield stream
        if "w" in mode:
            self._store.put("dcp/" + Path(path).name, Path(path))


class Training:
    """A state that every step changes, and steps of matrix products on one thread."""

    def __init__(self, megabytes: int) -> None:
        width = 1024
        count = -(-megabytes * 1_000_000 // (3 * 4 * width * width))
        names = [f"layers.{index}.weight" for index in range(count)]
        groups = ("model", "exp_avg", "exp_avg_sq")
        self.state = {f"{group}/{name}": torch.randn(width, width) for group in groups for name in names}
        self._weights = [self.state[f"model/{name}"] for name in names[:8]]
        self.bytes = sum(tensor.nbytes for tensor in self.state.values())

    def step(self) -> float:
        """Compute one step; return its seconds."""
        began = time.monotonic()
        hidden = torch.ones(64, 1024)
        for weight in self._weights * 4:
            hidden = torch.tanh(hidden @ weight)
            weight.mul_(0.999)
        return time.monotonic() - began

    def alone(self) -> list[float]:
        """Take a few steps while nothing is saved; return their seconds."""
        return [self.step() for _ in range(BASE_STEPS)]

    def steps_until(self, done: Callable[[], bool]) -> list[float]:
        """Take steps until `done`; return their seconds."""
        seconds = []
        while not done():
            seconds.append(self.step())
        return seconds

    def exported(self, step: int) -> LocalState:
        """A copy of the state, as a strategy makes it."""
        copies: dict[str, Tensor] = {name: tensor.clone() for name, tensor in self.state.items()}
        return LocalState(step, [Piece(name, tuple(t.shape), 0, t.reshape(-1)) for name, t in copies.items()])


def measure(training: Training, store: S3Store, repeats: int) -> list[dict[str, float]]:
    """One record for each round, in seconds."""
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    origin = Origin("benchmark", 1, "ddp", "0" * 64, "0" * 64)
    keeper = Checkpointer(store, origin, retention=Policy(2), agreement=TorchAgreement(group))
    dcp_group = dist.new_group(backend="gloo")
    rounds = []
    for number in range(repeats):
        began = time.monotonic()
        keeper.save(training.exported(2 * number + 1), "periodic")
        found = {"synchronous": time.monotonic() - began}
        base = training.alone()

        began = time.monotonic()
        keeper.begin(training.exported(2 * number + 2), "periodic")
        found["stall"] = time.monotonic() - began
        steps = training.steps_until(lambda: keeper.poll() is not None)
        found["background"] = time.monotonic() - began
        found["step"] = statistics.median(base + (after := training.alone()))
        found["added"] = sum(steps) - len(steps) * found["step"]

        with tempfile.TemporaryDirectory() as folder:
            writer = FileSystemWriter(folder, overwrite=True)
            writer.fs = UploadingFiles(store)
            began = time.monotonic()
            saving: Any = async_save(training.state, storage_writer=writer, process_group=dcp_group)
            found["dcp_stall"] = time.monotonic() - began
            steps = training.steps_until(saving.done)
            saving.result()
            found["dcp_background"] = time.monotonic() - began
            found["dcp_added"] = sum(steps) - len(steps) * statistics.median(after + training.alone())
        rounds.append(found)
        print(json.dumps({name: round(value, 3) for name, value in found.items()}), file=sys.stderr)
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        server = S3Server(Path(folder) / "s3")
        server.start()
        try:
            os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = server.access_key, server.secret_key
            relay = Relay(server.port)
            settings = StorageSpec(endpoint=f"http://127.0.0.1:{relay.port}", addressing="Path")
            training = Training(64 if options.quick else 300)
            rounds = measure(training, S3Store(f"s3://{server.bucket()}/run", settings), options.repeats)
        finally:
            server.kill()

    def median(value: Callable[[dict[str, float]], float]) -> float:
        return round(statistics.median(map(value, rounds)), 4)

    ratio = median(lambda one: one["stall"] / one["synchronous"])
    figures = {
        "state_bytes": training.bytes,
        "seconds": {name: median(lambda one, name=name: one[name]) for name in rounds[0]},  # type: ignore[misc]
        "stall_of_synchronous": ratio,
        "added_of_synchronous": median(lambda one: one["added"] / one["synchronous"]),
        "dcp_stall_of_synchronous": median(lambda one: one["dcp_stall"] / one["synchronous"]),
        "dcp_added_of_synchronous": median(lambda one: one["dcp_added"] / one["synchronous"]),
        "rounds": len(rounds),
    }
    machine = f"{os.cpu_count()} x {platform.machine()}, torch {torch.__version__}"
    result = {"name": "checkpoint_stall", "figures": figures, "ratio": ratio, "target": TARGET}
    print(json.dumps({**result, "holds": ratio <= TARGET, "machine": machine}))


if __name__ == "__main__":
    main()
