"""Where this machine keeps what is not in a store: copies that may be deleted, and the working folders of its runs.

The environment need not have a home: no HOME, no entry in the user data base, a home that cannot be written.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import tempfile
import time
from functools import lru_cache
from pathlib import Path

from unimrg_api.errors import UserError
from unimrg_api.fields import path_of
from unimrg_api.progress import Progress
from unimrg_api.record import SIZE_LIMIT
from unimrg_api.spec_platform import StorageSpec
from unimrg_api.stages import StageName
from unimrg_trainer.files import write_atomically
from unimrg_trainer.storage.local import os_errors_as_storage_errors

logger = logging.getLogger(__name__)

PROGRESS_FILE, MLFLOW_FILE, TERMINATION_FILE = "progress.json", "mlflow.json", "termination.json"
JOB_FILE = "unimrgjob.json"
"""The job that trains here; also below `job` in the artifacts of its MLflow run."""
_OF_ONE_TRAINING = ("spool", "exit", "results", PROGRESS_FILE, MLFLOW_FILE, TERMINATION_FILE, JOB_FILE)


def cache_folder() -> Path:
    """Copies that may be deleted: UNIMRG_CACHE, else ~/.cache/unimrg, else a folder for temporary files."""
    given, home = os.environ.get("UNIMRG_CACHE"), _home()
    if given:
        return Path(given)
    folder = home / ".cache" / "unimrg" if home is not None else None
    if folder is not None and _can_be_written(folder):
        return folder
    return Path(tempfile.gettempdir()) / f"unimrg-{os.getuid()}"


def state_folder() -> Path:
    """What is nowhere else: UNIMRG_STATE, else XDG_STATE_HOME/unimrg, else ~/.local/state/unimrg.

    Raises UserError without any of them: temporary files are no place for points that MLflow does not have yet.
    """
    own, common, home = os.environ.get("UNIMRG_STATE"), os.environ.get("XDG_STATE_HOME"), _home()
    if own:
        return Path(own)
    if common:
        return Path(common) / "unimrg"
    if home is None:
        raise UserError(
            "this user has no home folder, where the state of a run in a bucket is kept",
            remedy="set HOME, or UNIMRG_STATE to a folder that outlives this process",
        )
    return home / ".local" / "state" / "unimrg"


def provide_home() -> None:
    """Give this process and its children a HOME and a USER where the system knows none: libraries ask for both.

    MLflow does not work without a home folder; what lies there is temporary.
    """
    if _home() is None:
        os.environ["HOME"] = str(cache_folder())
        cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user-{os.getuid()}"


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def _can_be_written(folder: Path) -> bool:
    """Whether a folder, which need not exist yet, can be written by this user."""
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))  # noqa: PTH110 - false, not an error, below a folder that cannot be read
    return os.access(there, os.W_OK | os.X_OK)


def run_folder(run_uri: str, storage: StorageSpec | None = None) -> Path:
    """Where `unimrg run` keeps lock, progress, logs and spool of the run at an absolute URI.

    That is `local` in the run's own folder, and for a run in a bucket a folder of this machine's state: one for each
    URI and endpoint. `storage` has the bucket's endpoint; without it the environment's counts.
    """
    uri = run_uri.rstrip("/")
    if uri.startswith("file://"):
        return path_of(uri) / "local"
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    endpoint = ((storage.endpoint if storage is not None else None) or named).rstrip("/")
    return state_folder() / "runs" / hashlib.sha256(f"{endpoint} {uri}".encode()).hexdigest()[:16]


def log_folder(run_dir: Path, attempt: str, stage: StageName) -> Path:
    """The logs of one stage of an attempt, in the run directory."""
    return run_dir / "logs" / f"attempt-{attempt}" / stage


def write_progress(run_dir: Path, progress: Progress) -> Progress:
    """Replace the progress file of a run's folder; return what was written: the progress with the present time.

    Raises nothing for a full disk, which may not end a training: it warns once and leaves the file as it is.
    """
    written = progress.model_copy(update={"updated": time.time()})
    try:
        write_atomically(run_dir / PROGRESS_FILE, written.to_json())
    except OSError as error:
        _warn_of_progress(run_dir, str(error.strerror))
    return written


@lru_cache
def _warn_of_progress(run_dir: Path, problem: str) -> None:
    """Warn once in a process, for progress is written every second."""
    logger.warning("the progress in %s is not written, and what shows it stands still: %s", run_dir, problem)


def mlflow_run(run_dir: Path) -> dict[str, str]:
    """`run_id`, `url` and `problem` from the file that the uploader writes, as far as it has them."""
    try:
        content = json.loads((run_dir / MLFLOW_FILE).read_bytes()[:SIZE_LIMIT])
        return {name: value for name, value in content.items() if isinstance(value, str)}
    except (OSError, ValueError, AttributeError):
        return {}


def training_in(folder: Path) -> str | None:
    """The uid of the training that a run's folder was last taken for; None if it was for none yet."""
    try:
        return (folder / "uid").read_text().strip() or None
    except OSError:
        return None


def claim_folder(folder: Path, uid: str) -> bool:
    """Claim a run's folder for a training; return whether it was another's, e.g. because the prefix was emptied.

    Files of the other training are moved to a folder in `earlier`: its curves and logs do not mix with this one's.
    Raises StorageError.
    """
    held = training_in(folder)
    with os_errors_as_storage_errors("write", folder):
        if held not in (None, uid):
            (folder / "earlier").mkdir(exist_ok=True)
            place = Path(tempfile.mkdtemp(dir=folder / "earlier"))
            for path in [*(folder / name for name in _OF_ONE_TRAINING), *folder.glob("logs/attempt-*")]:
                if path.exists():
                    path.rename(place / path.name)
        if held != uid:
            write_atomically(folder / "uid", f"{uid}\n")
    return held not in (None, uid)
