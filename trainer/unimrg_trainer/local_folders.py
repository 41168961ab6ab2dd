"""Where this machine keeps what is not in a store: copies that may be deleted, and the working folders of its runs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from unimrg_api.job import path_of


def cache_folder() -> Path:
    """UNIMRG_CACHE, else ~/.cache/unimrg."""
    return Path(os.environ.get("UNIMRG_CACHE") or Path.home() / ".cache" / "unimrg")


def run_folder(run_uri: str) -> Path:
    """Where `unimrg run` keeps lock, progress, logs and spool of the run at an absolute URI.

    That is `local` in the run's own folder, and for a run in a bucket a folder of the cache.
    """
    uri = run_uri.rstrip("/")
    if uri.startswith("file://"):
        return path_of(uri) / "local"
    return cache_folder() / "runs" / hashlib.sha256(uri.encode()).hexdigest()[:16]
