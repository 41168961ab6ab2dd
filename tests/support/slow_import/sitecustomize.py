"""On PYTHONPATH, this makes the import of the module SLOW_IMPORT slow, and says in the file SLOW_IMPORT_BEGAN that it
has begun: a test can send signals during a program's start."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

SECONDS = 1.0


class _Slow:
    """A finder that finds nothing, slowly."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Wait, if this is the module."""
        if name == os.environ["SLOW_IMPORT"]:
            Path(os.environ["SLOW_IMPORT_BEGAN"]).touch()
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                time.sleep(0.01)


sys.meta_path.insert(0, _Slow())  # type: ignore[arg-type]
