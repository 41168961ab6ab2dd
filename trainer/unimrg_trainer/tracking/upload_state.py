"""How far the server has the spool, which files are still to be sent, and what the server refused.

Losing it costs requests only: everything is compared with the server's history and sent again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from unimrg_trainer.tracking.segments import list_segments, read_json, read_lines, write_json

STATE_FILE = "acknowledged.json"


@dataclass(frozen=True)
class PendingArtifact:
    """A file (below the spool's folder) that the server lacks, and the folder in the run where it belongs."""

    path: str
    folder: str


class UploadState:
    """Acknowledged offsets per segment, for one server and one run (`acknowledged.json` in the spool)."""

    def __init__(self, folder: Path, server_digest: str) -> None:
        self.folder = folder
        self.run_id: str | None = None
        self.offsets: dict[str, int] = {}
        self.pending: list[PendingArtifact] = []
        self._server_digest = server_digest
        content = read_json(folder / STATE_FILE)
        try:
            if content["server"] == server_digest:
                self.run_id = content["run_id"]
                self.offsets = {str(name): int(offset) for name, offset in content["segments"].items()}
                self.pending = [PendingArtifact(item["path"], item["folder"]) for item in content["artifacts"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            self.run_id, self.offsets, self.pending = None, {}, []

    def adopt(self, run_id: str) -> None:
        """Use the state for this run; if it was another one, everything has to be sent again."""
        if run_id != self.run_id:
            self.run_id, self.offsets, self.pending = run_id, {}, []
            self._save()

    def acknowledge(self, offsets: dict[str, int], pending: list[PendingArtifact]) -> None:
        """Note that the server has everything before `offsets`, except the files in `pending`."""
        self.offsets.update(offsets)
        self.pending = list(dict.fromkeys([*self.pending, *pending]))
        self._save()

    def artifact_done(self, artifact: PendingArtifact) -> None:
        """Note that the server has the file, or that it will never be sent."""
        self.pending = [item for item in self.pending if item != artifact]
        self._save()

    def reject(self, item: object, reason: str) -> None:
        """Put what the server refused into `rejected.jsonl` instead of sending it for ever."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "rejected.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"reason": reason, "item": str(item)}) + "\n")

    def remaining(self) -> int:
        """How many complete lines and files the server does not have yet."""
        lines = sum(
            1
            for name in list_segments(self.folder)
            for _ in read_lines(self.folder, name, self.offsets.get(str(name), 0))
        )
        return lines + len(self.pending)

    def _save(self) -> None:
        write_json(
            self.folder / STATE_FILE,
            {
                "server": self._server_digest,
                "run_id": self.run_id,
                "segments": self.offsets,
                "artifacts": [asdict(item) for item in self.pending],
            },
        )
