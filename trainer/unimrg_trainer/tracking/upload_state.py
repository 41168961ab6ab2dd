"""How far the server has the spool, and which files are still to be sent: `acknowledged.json` in the spool.

Losing it costs requests only: everything is compared with the server's history and sent again.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from unimrg_trainer.files import write_atomically

STATE_FILE = "acknowledged.json"


class UploadState(BaseModel):
    """What one run of one server has acknowledged."""

    server: str
    """Digest of the server's URI and the job's uid."""
    run_id: str | None = None
    segments: dict[str, int] = {}
    """The acknowledged bytes of each segment."""
    artifacts: list[tuple[str, str]] = []
    """Files that the server lacks: path below the spool's folder, and folder in the run."""

    @staticmethod
    def load(folder: Path, server: str) -> UploadState:
        """Return the state of the spool in `folder`; an empty one if it is missing, damaged or another server's."""
        try:
            state = UploadState.model_validate_json((folder / STATE_FILE).read_bytes())
        except (OSError, ValueError):
            return UploadState(server=server)
        return state if state.server == server else UploadState(server=server)

    def save(self, folder: Path) -> None:
        """Replace the state of the spool in `folder`."""
        write_atomically(folder / STATE_FILE, self.model_dump_json())
