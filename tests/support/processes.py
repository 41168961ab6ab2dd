"""Real processes for tests that kill one or need several ranks: forked from a server that has imported torch.

Functions that run in them are named, not copied, so they lie at the top of a module.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PRELOADED = [
    "torch",
    "torch.distributed",
    "safetensors.torch",
    "unimrg_trainer.checkpoint.checkpointer",
    "unimrg_trainer.engine.train",
    "unimrg_trainer.engine.measuring",
    "unimrg_trainer.models.harmon.family",
    "unimrg_trainer.models.openuni.family",
    "unimrg_trainer.models.showo.family",
]
PATIENCE = 240.0
"""Seconds that a test waits for a process before it fails: far more than one takes on a machine with other work."""


class Paused:
    """A process's end of the wire to its test."""

    def __init__(self, wire: Connection) -> None:
        self._wire = wire

    def reached(self, place: str) -> None:
        """Tell the test where we are and stop there; the test kills us."""
        self._wire.send(place)
        signal.pause()


class ProcessUnderTest:
    """A process that pauses at a place of the test's choosing."""

    def __init__(self, process: Any, wire: Connection) -> None:
        self.process = process
        self._wire = wire

    def wait_until_paused(self) -> str:
        """Return the place that it has reached; fails if it ends before."""
        assert self._wire.poll(PATIENCE), "the process does not get there"
        try:
            place: str = self._wire.recv()
        except EOFError:
            self.process.join(PATIENCE)
            raise AssertionError(f"it ended with {self.process.exitcode} before it paused") from None
        return place

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(PATIENCE)
        assert self.process.exitcode == -signal.SIGKILL


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _run(wire: Connection, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    function(Paused(wire), *arguments)


@contextmanager
def start(function: Callable[..., None], *arguments: Any) -> Iterator[ProcessUnderTest]:
    """Start `function(paused, *arguments)` in a process of its own; it is dead at the end of the block."""
    ours, theirs = multiprocessing.Pipe()
    process = _context().Process(target=_run, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ProcessUnderTest(process, ours)
    finally:
        if process.is_alive():
            process.kill()
        process.join(PATIENCE)
        ours.close()


def _rank(
    wire: Connection, rank: int, world_size: int, meeting: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    from unimrg_trainer.checkpoint.agreement import TorchAgreement

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=PATIENCE / 2),
    )
    group = dist.new_group(backend="gloo")
    try:
        wire.send(function(TorchAgreement(group), *arguments))
    except Exception:
        wire.send(AssertionError(f"rank {rank}: {traceback.format_exc()}"))
    # without destroying the group: a rank that was killed would be waited for
    wire.close()
    os._exit(0)


def run_ranks(world_size: int, meeting: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run `function(agreement, *arguments)` on real gloo ranks that meet at the new file `meeting`.

    Returns what each rank returned, None for one that died.
    """
    wires, processes = [], []
    for rank in range(world_size):
        ours, theirs = multiprocessing.Pipe()
        process = _context().Process(
            target=_rank, args=(theirs, rank, world_size, str(meeting), function, arguments), daemon=True
        )
        process.start()
        theirs.close()
        wires.append(ours)
        processes.append(process)
    answers: list[Any] = []
    deadline = time.monotonic() + PATIENCE
    try:
        for wire in wires:
            assert wire.poll(max(0.0, deadline - time.monotonic())), "a rank hangs"
            try:
                answers.append(wire.recv())
            except EOFError:
                answers.append(None)
    finally:
        for process in processes:
            if process.is_alive():
                process.join(1)
                process.kill()
            process.join(PATIENCE)
    for answer in answers:
        if isinstance(answer, AssertionError):
            raise answer
    return answers
