"""The thread of node 0's launcher that ships the spool to MLflow while training goes on.

It never raises into its caller and never holds it up: a dead server costs retries in this thread, and `stop`
returns within its time-out whatever hangs.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from unimrg_api.redaction import clean
from unimrg_trainer.tracking.courier import Courier
from unimrg_trainer.tracking.ledger import Ledger
from unimrg_trainer.tracking.remote_run import MlflowRun, RemoteRun, UnauthorisedError, UnavailableError
from unimrg_trainer.tracking.segments import list_segments, read_json
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings

_logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0


class Backoff:
    """Waiting times 1, 2, 4 … 60 s, each cut by up to a half at random: many jobs must not come at once."""

    def __init__(self, first: float = 1.0, longest: float = 60.0, generator: random.Random | None = None) -> None:
        self._first = first
        self._longest = longest
        self._random = generator or random.Random()
        self._failures = 0

    def next(self) -> float:
        """Return how many seconds to wait after one more failure."""
        # 2^20 s is far beyond any limit; the exponent must not grow for ever.
        wait = min(self._longest, self._first * 2.0 ** min(self._failures, 20))
        self._failures += 1
        return wait * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start again at the first waiting time."""
        self._failures = 0


@dataclass(frozen=True)
class ShipReport:
    """What a shipper did.

    `shipped`: lines that went through it; `remaining`: lines and files that the server lacks. `run_id` is
    None if no run was ever reached. `status_set`: the run has the terminal status that was asked for (only
    with `final_status`).
    """

    shipped: int
    remaining: int
    run_id: str | None
    url: str
    status_set: bool


class Shipper:
    """Tails `run_dir/spool` and ships it; puts run id and URL into `run_dir/mlflow.json` as soon as known.

    Only one shipper works on a folder at a time (a lock file); another waits. `final_status` is for `finish`:
    the run is closed with it, where otherwise a closed run is re-opened (RUNNING) for this attempt.
    """

    def __init__(
        self,
        run_dir: Path,
        settings: TrackingSettings,
        *,
        final_status: TerminalStatus | None = None,
        remote: RemoteRun | None = None,
        backoff: Backoff | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._run_dir = run_dir
        self._folder = run_dir / "spool"
        self._settings = settings
        self._backoff = backoff or Backoff()
        self._poll_seconds = poll_seconds
        self._stop = threading.Event()
        self._abandon = threading.Event()
        self._courier = Courier(
            run_dir,
            settings,
            remote or MlflowRun(settings),
            final_status=final_status,
            may_go_on=lambda: not self._abandon.is_set(),
        )
        self._thread = threading.Thread(target=self._run, name="mlflow-shipper", daemon=True)
        self._complaint = ""
        self._unauthorised = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> ShipReport:
        """Ship what is left for at most `timeout` seconds, then return whatever the server's state.

        What is left stays in the spool for `finish` or the next attempt.
        """
        self._stop.set()
        self._thread.join(timeout)
        self._abandon.set()
        return self.report()

    def report(self) -> ShipReport:
        """Return how far shipping has come."""
        known = read_json(self._run_dir / "mlflow.json")
        ledger = Ledger(self._folder, self._settings.server_digest)
        run_id = ledger.run_id
        return ShipReport(
            shipped=self._courier.shipped,
            remaining=ledger.remaining(),
            run_id=run_id,
            url=str(known.get("url", "")) if run_id and known.get("run_id") == run_id else "",
            status_set=self._courier.status_set,
        )

    def health(self) -> dict[str, float]:
        """Return `tracker/*` figures: bytes in the spool, seconds that the server is behind, refusals."""
        ledger = Ledger(self._folder, self._settings.server_digest)
        total = 0
        behind = 0.0
        for name in list_segments(self._folder):
            status = (self._folder / str(name)).stat()
            total += status.st_size
            if ledger.offsets.get(str(name), 0) < status.st_size:
                behind = max(behind, time.time() - status.st_mtime)
        return {
            "tracker/spool_bytes": float(total),
            "tracker/lag_s": behind,
            "tracker/rejected": float(self._courier.ledger.rejected),
            "tracker/auth_failed": float(self._unauthorised),
        }

    def _run(self) -> None:
        descriptor: int | None = None
        try:
            descriptor = self._lock()
            was_stopping = False
            while descriptor is not None and not self._abandon.is_set():
                stopping = self._stop.is_set()
                if stopping and not was_stopping:
                    # The last chance before the time-out: do not sleep through it after a long outage.
                    was_stopping = True
                    self._backoff.reset()
                wait = self._pass()
                if wait is not None:
                    # While stopping, the caller's time-out ends the waiting.
                    (self._abandon if stopping else self._stop).wait(wait)
                elif stopping:
                    return
                else:
                    self._stop.wait(self._poll_seconds)
        except Exception:
            _logger.exception("shipping to MLflow ended; the spool in %s keeps everything", self._folder)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _pass(self) -> float | None:
        """Make one pass; return None after a good one, else the seconds to wait."""
        try:
            self._courier.ship()
        except Exception as error:
            # Whatever it was, the spool has everything and the next pass starts from there.
            if not self._abandon.is_set():
                self._unauthorised = isinstance(error, UnauthorisedError)
                self._complain(str(error) if isinstance(error, UnavailableError) else repr(error))
            return self._backoff.next()
        if self._complaint:
            _logger.info("MLflow at %s takes records again", self._settings.public_uri)
        self._complaint = ""
        self._unauthorised = False
        self._backoff.reset()
        return None

    def _complain(self, text: str) -> None:
        """Say it once per outage, and again when the reason is another kind."""
        kind = "credentials" if self._unauthorised else "outage"
        if kind != self._complaint:
            self._complaint = kind
            level = logging.ERROR if self._unauthorised else logging.WARNING
            what = "does not accept the credentials" if self._unauthorised else "cannot be reached"
            _logger.log(
                level,
                "MLflow at %s %s; training goes on, the spool keeps everything: %s",
                self._settings.public_uri,
                what,
                clean(text, 500),
            )

    def _lock(self) -> int | None:
        """Wait for the folder's lock; None if told to stop before it came."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / "shipper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if self._abandon.wait(0.2):
                    os.close(descriptor)
                    return None
