"""The embedded MLflow data base: made whole or not at all, and usable after its folder was moved.

MLflow builds its tables by running every migration since its first release, which takes seconds; killed in between,
the file is broken for good ("duplicate column name"). So the tables are made in a file of another name, which then
gets its name in one step. MLflow stores the location of artifacts as an absolute URI (it resolves relative ones), so
those below a folder that was moved are rewritten.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from pathlib import Path

from unimrg_trainer.tracking.settings import sqlite_uri

ARTIFACTS = "mlflow-artifacts"


def ensure_database(path: Path) -> None:
    """Create the SQLite data base at `path` with MLflow's tables, unless it is there.

    Safe beside another process that does the same: the first one to finish wins. Imports MLflow.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    partial = path.with_name(f".partial-{uuid.uuid4().hex[:8]}-{path.name}")  # swept like a store's leftovers
    from mlflow import MlflowClient

    try:
        MlflowClient(tracking_uri=sqlite_uri(partial)).search_experiments(max_results=1)
        os.link(partial, path)
    except FileExistsError:
        return
    finally:
        partial.unlink(missing_ok=True)


def relocate_artifacts(path: Path) -> None:
    """Make the experiments of this data base, and their runs, keep artifacts beside it, wherever it was before."""
    here = (path.parent / ARTIFACTS).as_uri()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        moved = database.execute(
            "SELECT DISTINCT artifact_location FROM experiments"
            " WHERE artifact_location LIKE ? AND artifact_location != ?",
            (f"%/{ARTIFACTS}", here),
        ).fetchall()
        for (there,) in moved:
            database.execute("UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (here, there))
            database.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE substr(artifact_uri, 1, ?) = ?",
                (here, len(there) + 1, len(there) + 1, f"{there}/"),
            )
