"""Closes the run of a job: uploads what the spool still holds and sets the terminal status, in bounded time."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from unimrg_api.redaction import clean
from unimrg_trainer.storage.base import ObjectStore
from unimrg_trainer.tracking.segments import list_segments
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings
from unimrg_trainer.tracking.spool import copy_segments, restore_segments
from unimrg_trainer.tracking.uploader import Uploader, UploadReport

_logger = logging.getLogger(__name__)


def finish(
    run_dir: Path, store: ObjectStore | None, settings: TrackingSettings, status: TerminalStatus, timeout: float = 60.0
) -> UploadReport:
    """Upload everything left and close the run of the settings' job as `status`, within `timeout` seconds.

    The writers must have ended. Segments are exchanged with `RUN/spool` in `store` in both directions first:
    what only the store has is uploaded too, and what only this machine has survives it. No failure of server
    or store is raised; the report says what is missing and why. May be repeated; a later attempt re-opens the run.
    """
    deadline = time.monotonic() + timeout
    if store is not None:
        # In a thread of its own because a store that hangs must not hold up the closing of the run.
        exchange = threading.Thread(target=_exchange, args=(store, run_dir), name="spool-exchange", daemon=True)
        exchange.start()
        exchange.join(timeout / 2)
    uploader = Uploader(run_dir, settings, final_status=status)
    uploader.start()
    return uploader.stop(max(0.0, deadline - time.monotonic()))


def save_spool(run_dir: Path, store: ObjectStore) -> None:
    """Copy what the spool holds to `RUN/spool` in `store`, where `finish` finds it in another pod.

    The writers must have ended. No failure of the store is raised.
    """
    folder = run_dir / "spool"
    try:
        copy_segments(folder, list_segments(folder), store)
    except Exception as error:
        _logger.warning("the tracking spool was not copied to %s: %s", store.uri, clean(str(error), 500))


def _exchange(store: ObjectStore, run_dir: Path) -> None:
    try:
        restore_segments(store, run_dir / "spool")
    except Exception as error:
        _logger.warning("the tracking spool in %s was not fetched: %s", store.uri, clean(str(error), 500))
    save_spool(run_dir, store)
