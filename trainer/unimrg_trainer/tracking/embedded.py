"""Makes the embedded MLflow data base, whole or not at all.

MLflow builds its tables by running every migration since its first release, which takes seconds; killed in between,
the file is broken for good ("duplicate column name"). So the tables are made in a file of another name, which then
gets its name in one step.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path


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
        MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments(max_results=1)
        os.link(partial, path)
    except FileExistsError:
        return
    finally:
        partial.unlink(missing_ok=True)
