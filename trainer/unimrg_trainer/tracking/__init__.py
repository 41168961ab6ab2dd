"""Tracking: rank 0 appends to a spool on disk, a thread of the launcher uploads it to MLflow, `finish` closes the run.

Training never waits for MLflow and never fails because of it. Importing this package does not import MLflow; the
uploader does when it makes its first call. See docs/method/tracking.md.
"""

from unimrg_trainer.tracking.finish import finish, keep_spool
from unimrg_trainer.tracking.read import read_attempts, read_curves
from unimrg_trainer.tracking.server_check import check_server
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings, sqlite_path, tracking_uri
from unimrg_trainer.tracking.spool import Spool, copy_segments, restore_segments
from unimrg_trainer.tracking.uploader import Uploader, UploadReport

__all__ = [
    "Spool",
    "TerminalStatus",
    "TrackingSettings",
    "UploadReport",
    "Uploader",
    "check_server",
    "copy_segments",
    "finish",
    "keep_spool",
    "read_attempts",
    "read_curves",
    "restore_segments",
    "sqlite_path",
    "tracking_uri",
]
