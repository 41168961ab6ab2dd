"""Tracking: rank 0 appends to a spool on disk, a thread of the launcher ships it to MLflow, `finish` closes
the run.

Training never waits for MLflow and never dies of it (architecture.md, rule 7). Importing this package does
not import MLflow; the shipper does when it makes its first call.
"""

from unimrg_trainer.tracking.finish import finish, keep_spool
from unimrg_trainer.tracking.read import read_attempts, read_curves
from unimrg_trainer.tracking.settings import TerminalStatus, TrackingSettings, tracking_uri
from unimrg_trainer.tracking.shipper import Shipper, ShipReport
from unimrg_trainer.tracking.spool import Spool, copy_closed_segments, restore_segments

__all__ = [
    "ShipReport",
    "Shipper",
    "Spool",
    "TerminalStatus",
    "TrackingSettings",
    "copy_closed_segments",
    "finish",
    "keep_spool",
    "read_attempts",
    "read_curves",
    "restore_segments",
    "tracking_uri",
]
