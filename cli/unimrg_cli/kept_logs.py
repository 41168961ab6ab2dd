"""Shows the logs of ranks that a run keeps: on this machine while it runs here, and beside its checkpoints."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.stages import STAGES, StageName
from unimrg_cli.run_view import is_running, locate_run
from unimrg_trainer.storage import LocalStore, ObjectStore

POLL_SECONDS = 0.2
_ORDER = list[str](STAGES)
_KEY = re.compile(rf"logs/attempt-(\d{{1,9}})/({'|'.join(STAGES)})/rank-(\d{{1,9}})\.log")


@dataclass(frozen=True)
class KeptSelection:
    """Which of the kept logs are wanted."""

    stage: StageName | None = None
    """None: the newest of the attempt."""
    attempt: int | None = None
    """Number under the run's prefix; None: the newest."""
    rank: int | None = 0
    """Rank of the training process; None: all of them."""
    tail: int | None = None
    """Lines at the end; None: all."""


@dataclass(frozen=True)
class _Log:
    attempt: int
    stage: str
    rank: int
    store: ObjectStore
    key: str

    @property
    def place(self) -> tuple[int, int]:
        """Attempt and stage: the greater, the newer."""
        return self.attempt, _ORDER.index(self.stage)


def show_run_logs(target: str, wanted: KeptSelection, *, follow: bool) -> None:
    """Write the logs of the run that a job's file, a folder or a URI names to standard output.

    To follow means until the run has ended or goes on to another stage or attempt; what runs elsewhere cannot be
    followed. Raises UserError where there is no such log.
    """
    store, local = locate_run(target)
    if wanted.stage is not None and not STAGES[wanted.stage].distributed:
        raise UserError(
            f"the stage {wanted.stage} has no ranks, and so no log of its own",
            remedy=f"`unimrg run` writes about it to {local.root}/logs/launcher.log",
            exit_code=ExitCode.INPUT_MISSING,
        )
    chosen = _choose([*_found(local), *_found(store)], store.uri, wanted)
    if follow and all(log.store is local for log in chosen):
        _follow(local, chosen, wanted)
    else:
        _show(chosen, wanted)


def show_kept(store: ObjectStore, wanted: KeptSelection) -> None:
    """Write what is kept beside the checkpoints to standard output. Raises UserError where there is no such log."""
    _show(_choose(_found(store), store.uri, wanted), wanted)


def _show(logs: list[_Log], wanted: KeptSelection) -> None:
    for log in logs:
        _write(log, log.store.get(log.key).decode("utf-8", "replace").splitlines(), wanted)


def _write(log: _Log, lines: list[str], wanted: KeptSelection, *, all_of_them: bool = False) -> None:
    """Write lines of a log, those at the end if it is so wanted; of several logs each begins with its rank."""
    for line in lines if wanted.tail is None or all_of_them else lines[-wanted.tail :]:
        sys.stdout.write(f"[rank {log.rank}] {line}\n" if wanted.rank is None else f"{line}\n")
    sys.stdout.flush()


def _found(store: ObjectStore) -> list[_Log]:
    found = ((_KEY.fullmatch(key), key) for key, _ in store.list("logs/"))
    return [_Log(int(match[1]), match[2], int(match[3]), store, key) for match, key in found if match is not None]


def _choose(logs: list[_Log], uri: str, wanted: KeptSelection) -> list[_Log]:
    """Return the logs that are wanted, by rank; of the same log, the first that is listed."""
    here = [log for log in logs if wanted.attempt in (None, log.attempt) and wanted.stage in (None, log.stage)]
    if not here:
        listed = ", ".join(
            f"{_ORDER[stage]} of attempt {attempt}" for attempt, stage in sorted({log.place for log in logs})
        )
        what = (f" of {wanted.stage}" if wanted.stage else "") + (
            f" of attempt {wanted.attempt}" if wanted.attempt else ""
        )
        raise UserError(
            f"{uri} keeps no log{what}",
            remedy=f"there are logs of {listed}" if listed else "logs are kept once training has begun",
            exit_code=ExitCode.INPUT_MISSING,
        )
    newest = max(log.place for log in here)
    by_rank = {log.rank: log for log in reversed(here) if log.place == newest}
    chosen = [by_rank[rank] for rank in sorted(by_rank) if wanted.rank in (None, rank)]
    if not chosen:
        raise UserError(
            f"{_ORDER[newest[1]]} of attempt {newest[0]} has no log of rank {wanted.rank}",
            remedy=f"its ranks are {', '.join(map(str, sorted(by_rank)))}",
            exit_code=ExitCode.INPUT_MISSING,
        )
    return chosen


def _follow(local: LocalStore, logs: list[_Log], wanted: KeptSelection) -> None:
    """Copy logs of this machine while they grow, until no process here works on the run or newer logs begin."""
    readers = [_Reader(Path(local.root / log.key)) for log in logs]
    first, last = True, False
    while not last:
        newer = any(log.place > logs[0].place for log in _found(local))
        last = newer or not is_running(local.root / "lock")  # looked at before the last lines are read
        for log, reader in zip(logs, readers, strict=True):
            _write(log, reader.lines(whole=not last), wanted, all_of_them=not first)
        first = False
        if not last:
            time.sleep(POLL_SECONDS)


class _Reader:
    """Reads what was added to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def lines(self, *, whole: bool) -> list[str]:
        """Return the lines since the last call; `whole`: only those that have ended."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            content = file.read()
        if whole:
            content = content[: content.rfind(b"\n") + 1]
        self._position += len(content)
        return content.decode("utf-8", "replace").splitlines()
