"""Where a run is recorded: the tracking server, the experiment and the identity of the job.

Nothing here imports MLflow; ranks may read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from unimrg_api.errors import UserError

TerminalStatus = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ends. A run that nobody closes stays RUNNING."""

_SQLITE = ("sqlite:///", "sqlite+pysqlite:///")


@dataclass(frozen=True)
class TrackingSettings:
    """Which run of which server a job's records belong to.

    `job_uid` is the same for all attempts of a training; it is the tag `unimrg.job_uid` by which the run is found
    again. `uri` may hold a password and is therefore left out of `repr`.
    """

    uri: str = field(repr=False)
    experiment: str
    run_name: str
    job_uid: str
    attempt: int
    node_rank: int = 0
    """Others than 0 add to the run that the first node makes, and leave its status alone."""
    sweep: str | None = None
    """Name of the sweep that the job belongs to."""

    def __post_init__(self) -> None:
        if not self.job_uid or any(quote in self.job_uid for quote in "'\"`"):
            raise UserError(
                f"the job's uid {self.job_uid!r} cannot identify a run",
                remedy="set UNIMRG_UID to a value without quotation marks",
            )

    @property
    def public_uri(self) -> str:
        """The URI without user name and password."""
        parts = urlsplit(self.uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else self.uri

    def artifact_location(self) -> str | None:
        """Where a new experiment keeps files: beside a SQLite data base; None: the server decides."""
        database = sqlite_path(self.uri)
        return None if database is None else (database.parent / "mlflow-artifacts").as_uri()


def sqlite_uri(path: Path) -> str:
    """Return the URI by which MLflow opens the SQLite file at `path`.

    `?` and `%` are escaped. With the plain scheme MLflow would also create the folder that the escaped text names, so
    such a path gets the long form of the scheme.
    """
    text = str(path.absolute())
    escaped = text.replace("%", "%25").replace("?", "%3F")
    return (_SQLITE[0] if escaped == text else _SQLITE[1]) + escaped


def sqlite_path(uri: str, base: Path | None = None) -> Path | None:
    """Return the file of a SQLite URI, absolute (a relative one counts from `base`); None for any other URI."""
    for scheme in _SQLITE:
        if uri.startswith(scheme):
            return ((base or Path()) / unquote(uri.removeprefix(scheme).partition("?")[0])).absolute()
    return None


def tracking_uri(given: str | None, base: Path, checkpoint_uri: str, run_dir: Path) -> str:
    """Return the URI to track to: the given one (SQLite paths relative to `base`), else a SQLite file of the job.

    Without a server the data base is `RUN/mlflow.db` where RUN is a local folder, else `run_dir/mlflow.db`
    (an object store cannot hold a data base that is written in place).
    """
    if given is not None:
        database = sqlite_path(given, base)
        return given if database is None else sqlite_uri(database)
    parts = urlsplit(checkpoint_uri)
    folder = Path(unquote(parts.path)) if parts.scheme == "file" else run_dir
    return sqlite_uri(folder / "mlflow.db")
