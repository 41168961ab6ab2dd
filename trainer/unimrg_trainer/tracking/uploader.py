"""The thread of a node's launcher that uploads the spool to MLflow while training goes on, and closes the run.

It never raises into its caller and never delays it: a dead server costs retries in this thread, and `stop` returns
within its time-out whatever hangs.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unimrg_api.exit_codes import ExitCode
from unimrg_api.redaction import clean
from unimrg_api.texts import backoff
from unimrg_trainer.storage.base import ObjectStore
from unimrg_trainer.tracking.errors import UnavailableError, explain
from unimrg_trainer.tracking.mlflow_run import Checkpoint, MlflowRun
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings
from unimrg_trainer.tracking.spool import restore_segments, save_spool
from unimrg_trainer.tracking.upload import SpoolUpload

_logger = logging.getLogger(__name__)

LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class UploadReport:
    """What an uploader did, and why it did not do more."""

    sent: int
    """Lines of the spool that it sent."""
    remaining: int
    """Lines that the server lacks; all, if it could not be asked."""
    run_id: str | None
    """None if no run was ever reached."""
    status_set: bool
    """The run has the terminal status that was asked for (only with `final_status`)."""
    problem: str = ""
    """Why the last pass failed; empty if it did not."""
    exit_code: ExitCode = ExitCode.OK
    """UNAVAILABLE if the same may succeed later; CONFIGURATION or CREDENTIALS if a person has to act."""


@dataclass
class Uploader:
    """Follows `run_dir/spool` and uploads it; puts run id, URL and the present problem into `run_dir/mlflow.json`.

    `final_status` is for `finish`: the run is closed with it, where otherwise a closed run is re-opened (RUNNING) for
    this attempt. `checkpoints` lists what the store keeps: each becomes a LoggedModel of the run. A second uploader on
    the same folder costs requests and does no other harm.
    """

    run_dir: Path
    settings: TrackingSettings
    final_status: TerminalStatus | None = None
    checkpoints: Callable[[], list[Checkpoint]] | None = None
    remote: MlflowRun | None = None
    first_wait: float = 1.0
    poll_seconds: float = 1.0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._abandon = threading.Event()

        def raise_if_stopped() -> None:
            if self._abandon.is_set():
                raise UnavailableError("stopped before everything was sent")

        remote = self.remote or MlflowRun(self.settings, raise_if_stopped)
        self._upload = SpoolUpload(self.run_dir, remote, self.final_status, self.checkpoints, raise_if_stopped)
        self._thread = threading.Thread(target=self._run, name="mlflow-uploader", daemon=True)
        self._problem = ""
        self._exit_code: ExitCode | None = None
        """None before the first pass has ended."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> UploadReport:
        """Upload what is left for at most `timeout` seconds, then return whatever the server's state.

        Returns at once if only a person can make the server take anything. What is left stays in the spool for
        `finish` or the next attempt.
        """
        self._stop.set()
        self._thread.join(timeout)
        self._abandon.set()
        return self.report()

    def report(self) -> UploadReport:
        """Return how far the upload has come."""
        upload = self._upload
        run_id, code = upload.remote.run_id or None, self._exit_code or ExitCode.OK
        return UploadReport(upload.sent, upload.remaining(), run_id, upload.status_set, self._problem, code)

    def _run(self) -> None:
        failures = 0
        while not self._abandon.is_set():
            stopping = self._stop.is_set()
            try:
                self._upload.run()
                failures = 0
                self._set_problem(None)
            except Exception as error:  # whatever it was, the spool has everything and the next pass starts from there
                failures += 1
                if not self._abandon.is_set():
                    self._set_problem(error)
            if stopping and (not failures or self._exit_code is not ExitCode.UNAVAILABLE):
                return
            # The last chance before the time-out of `stop`, which ends the waiting: do not sleep through it.
            repeated = 1 if stopping else failures
            wait = backoff(self.first_wait, LONGEST_WAIT_SECONDS, repeated, random.random())
            (self._abandon if stopping else self._stop).wait(wait if failures else self.poll_seconds)

    def _set_problem(self, error: Exception | None) -> None:
        """Keep the reason for the report; publish and log it once per outage, and again when it is another one."""
        before, server = (self._problem, self._exit_code), self.settings.public_uri
        problem, code = explain(server, error) if error is not None else ("", ExitCode.OK)
        self._problem, self._exit_code = problem, code
        if (problem, code) == before:
            return
        self._upload.publish(problem)  # also after the first success: an earlier attempt may have left a problem
        if error is None:
            if before[0]:
                _logger.info("MLflow at %s accepts records again", server)
        else:
            level = logging.WARNING if code is ExitCode.UNAVAILABLE else logging.ERROR
            beside = (
                "the spool keeps everything" if self.final_status else "training goes on, the spool keeps everything"
            )
            _logger.log(level, "%s; %s", self._problem, beside)


def finish(
    run_dir: Path,
    store: ObjectStore | None,
    settings: TrackingSettings,
    status: TerminalStatus,
    timeout: float = 60.0,
    checkpoints: Callable[[], list[Checkpoint]] | None = None,
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
    uploader = Uploader(run_dir, settings, status, checkpoints)
    uploader.start()
    return uploader.stop(max(0.0, deadline - time.monotonic()))


def _exchange(store: ObjectStore, run_dir: Path) -> None:
    try:
        restore_segments(store, run_dir / "spool")
    except Exception as error:
        _logger.warning("the tracking spool in %s was not fetched: %s", store.uri, clean(str(error), 500))
    save_spool(run_dir, store)
