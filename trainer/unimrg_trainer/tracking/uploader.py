"""The thread of node 0's launcher that uploads the spool to MLflow while training goes on.

It never raises into its caller and never delays it: a dead server costs retries in this thread, and `stop` returns
within its time-out whatever hangs.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from dataclasses import dataclass
from pathlib import Path

from unimrg_api.exit_codes import ExitCode
from unimrg_api.redaction import clean
from unimrg_api.texts import backoff
from unimrg_trainer.files import write_atomically
from unimrg_trainer.local_folders import MLFLOW_FILE
from unimrg_trainer.tracking.errors import ActionRequiredError, UnavailableError
from unimrg_trainer.tracking.mlflow_run import MlflowRun
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings
from unimrg_trainer.tracking.upload import SpoolUpload

_logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class UploadReport:
    """What an uploader did, and why it did not do more."""

    sent: int
    """Lines of the spool that it sent."""
    remaining: int
    """Lines and files that the server lacks."""
    run_id: str | None
    """None if no run was ever reached."""
    status_set: bool
    """The run has the terminal status that was asked for (only with `final_status`)."""
    problem: str = ""
    """Why the last pass failed; empty if it did not."""
    exit_code: ExitCode = ExitCode.OK
    """UNAVAILABLE if the same may succeed later; CONFIGURATION or CREDENTIALS if a person has to act."""


class Uploader:
    """Follows `run_dir/spool` and uploads it; puts run id, URL and the present problem into `run_dir/mlflow.json`.

    `final_status` is for `finish`: the run is closed with it, where otherwise a closed run is re-opened (RUNNING) for
    this attempt. A second uploader on the same folder costs requests and does no other harm.
    """

    def __init__(
        self,
        run_dir: Path,
        settings: TrackingSettings,
        *,
        final_status: TerminalStatus | None = None,
        remote: MlflowRun | None = None,
        first_wait: float = 1.0,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._mlflow_json = run_dir / MLFLOW_FILE
        self._settings = settings
        self._first_wait = first_wait
        self._poll_seconds = poll_seconds
        self._stop = threading.Event()
        self._abandon = threading.Event()
        self._upload = SpoolUpload(
            run_dir,
            settings,
            remote or MlflowRun(settings, self._may_continue),
            final_status=final_status,
            may_continue=self._may_continue,
        )
        self._thread = threading.Thread(target=self._run, name="mlflow-uploader", daemon=True)
        self._failures = 0
        self._problem = ""
        self._exit_code = ExitCode.OK

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
        return UploadReport(
            sent=self._upload.sent,
            remaining=self._upload.remaining(),
            run_id=self._upload.state.run_id,
            status_set=self._upload.status_set,
            problem=self._problem,
            exit_code=self._exit_code,
        )

    def _may_continue(self) -> bool:
        return not self._abandon.is_set()

    def _run(self) -> None:
        was_stopping = False
        try:
            while not self._abandon.is_set():
                stopping = self._stop.is_set()
                if stopping and not was_stopping:
                    # The last chance before the time-out: do not sleep through it after a long outage.
                    was_stopping, self._failures = True, 0
                succeeded = self._pass()
                if stopping and (succeeded or self._exit_code not in (ExitCode.OK, ExitCode.UNAVAILABLE)):
                    return
                longest = backoff(self._first_wait, LONGEST_WAIT_SECONDS, self._failures, random.random())
                wait = self._poll_seconds if succeeded else longest
                # While stopping, the caller's time-out ends the waiting.
                (self._abandon if stopping else self._stop).wait(wait)
        except Exception:
            _logger.exception("the upload to MLflow ended; the spool in %s keeps everything", self._upload.folder)

    def _pass(self) -> bool:
        """Make one pass and return whether everything was sent."""
        try:
            self._upload.run()
        except Exception as error:
            # Whatever it was, the spool has everything and the next pass starts from there.
            self._failures += 1
            if not self._abandon.is_set():
                self._set_problem(error)
            return False
        self._failures = 0
        if self._problem:
            _logger.info("MLflow at %s takes records again", self._settings.public_uri)
            self._problem, self._exit_code = "", ExitCode.OK
            self._write_problem()
        return True

    def _set_problem(self, error: Exception) -> None:
        """Keep the reason for the report; log it once per outage, and again when it is of another kind."""
        known = isinstance(error, UnavailableError)
        exit_code = error.exit_code if isinstance(error, UnavailableError) else ExitCode.UNAVAILABLE
        action = isinstance(error, ActionRequiredError)
        what = "refuses this job's records" if action else "cannot be reached"
        text = clean(str(error) if known else repr(error), 500)
        changed = exit_code != self._exit_code
        self._problem, self._exit_code = f"MLflow at {self._settings.public_uri} {what}: {text}", exit_code
        if changed:
            level = logging.ERROR if action else logging.WARNING
            _logger.log(level, "%s; training goes on, the spool keeps everything", self._problem)
            self._write_problem()

    def _write_problem(self) -> None:
        try:
            known = json.loads(self._mlflow_json.read_bytes())
        except (OSError, ValueError):
            known = {}
        write_atomically(self._mlflow_json, json.dumps({**known, "problem": self._problem}))
