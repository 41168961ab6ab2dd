"""Whether a process, anybody's, still runs."""

from __future__ import annotations

from pathlib import Path


def alive(pid: int) -> bool:
    """A process that has ended and was not waited for (a zombie) does not run any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
