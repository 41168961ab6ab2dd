"""The environment variables of a pod: every one with its type and its default in a pod.

A laptop, a test and a pod run the same code; only the variables differ.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimrg_api.errors import UserError

PREFIX = "UNIMRG_"
FIRST_PORT = 20000
LAST_PORT = 29999
"""Ports are taken from here: below Kubernetes' node ports (30000) and Linux' ephemeral ports (32768)."""


@dataclass(frozen=True)
class PodEnvironment:
    """The contract between whoever starts a pod (operator, `unimrg run`, a test) and what runs in it."""

    job: str = "unimrg"
    """UNIMRG_JOB: the job's name."""
    uid: str = ""
    """UNIMRG_UID: the job's identity; empty: the one in RUN/job.json, which the launcher creates."""
    attempt: str = ""
    """UNIMRG_ATTEMPT: number of this attempt, from 1, as digits; empty: the launcher claims the next one."""
    spec: str = ""
    """UNIMRG_SPEC: the whole job as canonical JSON."""
    spec_base: Path = Path("/")
    """UNIMRG_SPEC_BASE: the folder that relative `file://` URIs of the job are resolved against."""
    run_dir: Path = Path("/run/unimrg")
    """UNIMRG_RUN_DIR: local folder of this pod: spool, progress.json, exit records, logs."""
    cache: Path = Path("/cache")
    """UNIMRG_CACHE: local folder that may outlive the pod: weights, decoded data."""
    termination_log: Path = Path("/dev/termination-log")
    """UNIMRG_TERMINATION_LOG: file for the termination record."""
    pod_ip: str = "127.0.0.1"
    """UNIMRG_POD_IP: the address that the launcher binds and announces."""
    node_rank: int = 0
    """UNIMRG_NODE_RANK: index of this pod among the job's pods, from 0."""
    nodes: int = 1
    """UNIMRG_NODES: number of pods of the job."""
    processes: int = 1
    """UNIMRG_PROCESSES: training processes in this pod."""
    master_address: str = "127.0.0.1"
    """UNIMRG_MASTER_ADDRESS: host of the pod with node rank 0."""
    stall_timeout: int = 900
    """UNIMRG_STALL_TIMEOUT: seconds without progress after which the launcher ends the attempt (exit 75)."""
    grace: int = 300
    """UNIMRG_GRACE: seconds between SIGTERM and SIGKILL."""

    @property
    def data_cache(self) -> Path:
        """Where blocks of shards are kept (`data.reading.cacheGiB`)."""
        return self.cache / "shards"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> PodEnvironment:
        """Read the variables; one that is missing or empty has its default.

        Raises UserError for a value that cannot be right.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            name = f"{PREFIX}{field.name.upper()}"
            text = environ.get(name, "")
            if not text:
                continue
            if field.name == "attempt":
                values["attempt"] = str(_whole(name, text, 0))
            elif isinstance(field.default, int):
                values[field.name] = _whole(name, text, _MINIMUM.get(field.name, 1))
            else:
                values[field.name] = text if isinstance(field.default, str) else Path(text)
        result = cls(**values)
        if result.node_rank >= result.nodes:
            raise UserError(
                f"UNIMRG_NODE_RANK is {result.node_rank}, but UNIMRG_NODES is {result.nodes}",
                remedy="node ranks count from 0 to UNIMRG_NODES - 1",
            )
        return result

    def to_environ(self) -> dict[str, str]:
        """Return every variable, so that `from_environ(to_environ())` is the same environment."""
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in dataclasses.asdict(self).items()}


_MINIMUM = {"node_rank": 0}
"""Smallest value of a whole number, where that is not 1."""


def _whole(name: str, text: str, minimum: int) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < minimum:
        message = f"{name} is {text!r}, but must be a whole number of at least {minimum}"
        raise UserError(message, remedy="unset it to get the default")
    return int(text)


def ports(uid: str, attempt: int | str) -> tuple[int, int]:
    """Return the ports (rendezvous, progress) of one attempt: the same on every pod.

    The next attempt most likely has others, so that a late process of this one cannot connect to it.
    """
    digest = hashlib.sha256(f"{uid}/{attempt}".encode()).digest()
    pairs = (LAST_PORT - FIRST_PORT + 1) // 2
    first = FIRST_PORT + 2 * (int.from_bytes(digest[:8], "big") % pairs)
    return first, first + 1
