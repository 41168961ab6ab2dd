"""What a pod is told through its environment: every variable and every path, each with its default in a pod.

A laptop, a test and a pod run the same code; only the variables differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> PodEnvironment:
        """Read the variables; one that is missing has its default.

        Raises UserError for a value that cannot be right.
        """
        text = {key[len(PREFIX) :].lower(): value for key, value in environ.items() if key.startswith(PREFIX)}
        default = cls()

        def integer(name: str, minimum: int, standard: int) -> int:
            value = text.get(name, "")
            if value == "":
                return standard
            if not (value.isascii() and value.isdigit()) or int(value) < minimum:
                raise UserError(
                    f"{PREFIX}{name.upper()} is {value!r}, but must be a whole number of at least {minimum}",
                    remedy="unset it to get the default",
                )
            return int(value)

        def path(name: str, standard: Path) -> Path:
            return Path(text[name]) if text.get(name) else standard

        attempt = "" if text.get("attempt", "") == "" else str(integer("attempt", 0, 0))
        result = cls(
            job=text.get("job") or default.job,
            uid=text.get("uid", default.uid),
            attempt=attempt,
            spec=text.get("spec", default.spec),
            spec_base=path("spec_base", default.spec_base),
            run_dir=path("run_dir", default.run_dir),
            cache=path("cache", default.cache),
            termination_log=path("termination_log", default.termination_log),
            pod_ip=text.get("pod_ip") or default.pod_ip,
            node_rank=integer("node_rank", 0, default.node_rank),
            nodes=integer("nodes", 1, default.nodes),
            processes=integer("processes", 1, default.processes),
            master_address=text.get("master_address") or default.master_address,
            stall_timeout=integer("stall_timeout", 1, default.stall_timeout),
            grace=integer("grace", 1, default.grace),
        )
        if result.node_rank >= result.nodes:
            raise UserError(
                f"UNIMRG_NODE_RANK is {result.node_rank}, but UNIMRG_NODES is {result.nodes}",
                remedy="node ranks count from 0 to UNIMRG_NODES - 1",
            )
        return result

    def to_environ(self) -> dict[str, str]:
        """Return every variable, so that `from_environ(to_environ())` is the same environment."""
        return {
            "UNIMRG_JOB": self.job,
            "UNIMRG_UID": self.uid,
            "UNIMRG_ATTEMPT": self.attempt,
            "UNIMRG_SPEC": self.spec,
            "UNIMRG_SPEC_BASE": str(self.spec_base),
            "UNIMRG_RUN_DIR": str(self.run_dir),
            "UNIMRG_CACHE": str(self.cache),
            "UNIMRG_TERMINATION_LOG": str(self.termination_log),
            "UNIMRG_POD_IP": self.pod_ip,
            "UNIMRG_NODE_RANK": str(self.node_rank),
            "UNIMRG_NODES": str(self.nodes),
            "UNIMRG_PROCESSES": str(self.processes),
            "UNIMRG_MASTER_ADDRESS": self.master_address,
            "UNIMRG_STALL_TIMEOUT": str(self.stall_timeout),
            "UNIMRG_GRACE": str(self.grace),
        }


def ports(uid: str, attempt: int | str) -> tuple[int, int]:
    """Return the ports (rendezvous, progress) of one attempt: the same on every pod.

    The next attempt most likely has others, so that a late process of this one finds nobody to talk to.
    """
    digest = hashlib.sha256(f"{uid}/{attempt}".encode()).digest()
    pairs = (LAST_PORT - FIRST_PORT + 1) // 2
    first = FIRST_PORT + 2 * (int.from_bytes(digest[:8], "big") % pairs)
    return first, first + 1
