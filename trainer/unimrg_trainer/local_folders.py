"""Where this machine keeps what is not in a store: copies that may be deleted, and the working folders of its runs."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from unimrg_api.job import StorageSpec, path_of
from unimrg_trainer.files import write_atomically
from unimrg_trainer.storage.local import explained

_OF_ONE_TRAINING = ("spool", "exit", "results", "progress.json", "mlflow.json", "termination.json")


def cache_folder() -> Path:
    """Copies that may be deleted: UNIMRG_CACHE, else ~/.cache/unimrg."""
    return Path(os.environ.get("UNIMRG_CACHE") or Path.home() / ".cache" / "unimrg")


def state_folder() -> Path:
    """What is nowhere else: UNIMRG_STATE, else XDG_STATE_HOME/unimrg, else ~/.local/state/unimrg."""
    own, common = os.environ.get("UNIMRG_STATE"), os.environ.get("XDG_STATE_HOME")
    return Path(own) if own else (Path(common) if common else Path.home() / ".local" / "state") / "unimrg"


def run_folder(run_uri: str, storage: StorageSpec | None = None) -> Path:
    """Where `unimrg run` keeps lock, progress, logs and spool of the run at an absolute URI.

    That is `local` in the run's own folder, and for a run in a bucket a folder of this machine's state: one for each
    URI and endpoint. `storage` says how the bucket is spoken to; what it leaves open comes from the environment.
    """
    uri = run_uri.rstrip("/")
    if uri.startswith("file://"):
        return path_of(uri) / "local"
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    endpoint = ((storage.endpoint if storage is not None else None) or named).rstrip("/")
    return state_folder() / "runs" / hashlib.sha256(f"{endpoint} {uri}".encode()).hexdigest()[:16]


def training_in(folder: Path) -> str | None:
    """The uid of the training that a run's folder was last taken for; None if it was for none yet."""
    try:
        return (folder / "uid").read_text().strip() or None
    except OSError:
        return None


def take_for(folder: Path, uid: str) -> bool:
    """Make a run's folder this training's; return whether it was another's, as where the prefix was emptied.

    What the other one left is moved to a folder in `earlier`, so that its curves and logs do not mix with this one's.
    Raises StorageError.
    """
    held = training_in(folder)
    with explained("write", folder):
        if held not in (None, uid):
            (folder / "earlier").mkdir(exist_ok=True)
            place = Path(tempfile.mkdtemp(dir=folder / "earlier"))
            for path in [*(folder / name for name in _OF_ONE_TRAINING), *folder.glob("logs/attempt-*")]:
                if path.exists():
                    path.rename(place / path.name)
        if held != uid:
            write_atomically(folder / "uid", f"{uid}\n")
    return held not in (None, uid)
