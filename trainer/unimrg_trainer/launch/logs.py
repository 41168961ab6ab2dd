"""Where the logs of ranks are, how they are repeated while they grow, and the part that outlives the pod."""

from __future__ import annotations

import sys
from pathlib import Path

from unimrg_api.stages import StageName

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TAIL_BYTES = 1 << 20
"""How much of each log is kept beside the checkpoints (docs/method/cluster.md)."""


def log_folder(run_dir: Path, attempt: str, stage: StageName) -> Path:
    """The logs of one stage of an attempt, in the run directory and beside the checkpoints alike."""
    return run_dir / "logs" / f"attempt-{attempt}" / stage


def rank_log(folder: Path, rank: int) -> Path:
    """The log of one rank: standard output and standard error."""
    return folder / f"rank-{rank}.log"


def tail(path: Path, limit: int = TAIL_BYTES, since: int = 0) -> bytes:
    """The last `limit` bytes of a file after position `since`, from the start of a line; empty if there is no
    file.
    """
    try:
        with path.open("rb") as file:
            start = max(since, file.seek(0, 2) - limit)
            file.seek(start)
            content = file.read(limit)
    except OSError:
        return b""
    if start > since:
        content = content[content.find(b"\n") + 1 :]
    return content


class Echo:
    """Repeats a growing log on our own standard output, for `kubectl logs`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0

    def __call__(self) -> None:
        """Write what has come since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            content = file.read(TAIL_BYTES)
        if content:
            self._position += len(content)
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
