"""Where a run is recorded: the tracking server, the experiment and the identity of the job.

Nothing here imports MLflow; ranks may read it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from unimrg_api.errors import UserError
from unimrg_trainer.tracking.redaction import without_user_info

TerminalStatus = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ends. A run that nobody closes stays RUNNING."""

TERMINAL_STATUSES: tuple[TerminalStatus, ...] = ("FINISHED", "FAILED", "KILLED")


@dataclass(frozen=True)
class TrackingSettings:
    """Which run of which server a job's records belong to.

    `job_uid` is the identity that stays the same over all attempts, on a laptop too; it is the tag
    `unimrg.job_uid` by which the run is found again. `uri` may hold a password and is therefore left out of
    `repr`.
    """

    uri: str = field(repr=False)
    experiment: str
    run_name: str | None
    job_uid: str
    attempt: int

    def __post_init__(self) -> None:
        if not self.job_uid or any(mark in self.job_uid for mark in "'\"`"):
            raise UserError(
                f"the job's uid {self.job_uid!r} cannot identify a run",
                remedy="set UNIMRG_UID to a value without quotation marks",
            )

    @property
    def server_digest(self) -> str:
        """Names the server in files without repeating its address, which may hold a password."""
        return hashlib.sha256(f"{self.uri}\n{self.experiment}\n{self.job_uid}".encode()).hexdigest()

    @property
    def public_uri(self) -> str:
        """The address without user name and password."""
        return without_user_info(self.uri)

    def artifact_location(self) -> str | None:
        """Where a new experiment keeps files: beside a SQLite data base; None: the server decides."""
        database = sqlite_path(self.uri)
        return None if database is None else (database.parent / "mlflow-artifacts").as_uri()


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a `sqlite:///…` address, absolute; None for every other kind of address."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute()


def tracking_uri(given: str | None, checkpoint_uri: str, run_dir: Path) -> str:
    """Return the address to track to: the given one, else a SQLite file in the job's own folder.

    Without a server the data base is `RUN/mlflow.db` where RUN is a local folder, else `run_dir/mlflow.db`
    (an object store cannot hold a data base that is written in place).
    """
    if given is not None:
        return given
    parts = urlsplit(checkpoint_uri)
    folder = Path(unquote(parts.path)) if parts.scheme == "file" else run_dir
    return f"sqlite:///{(folder / 'mlflow.db').absolute()}"
