"""Starts torchrun as a child, watches it and its ranks, forwards requests to stop, and kills what has to be
killed.

Signals go to the ranks, not to torchrun: its agent turns a signal into an exception wherever it is (even
between two ranks' starts), reports 1 whatever the ranks reported, and a second signal breaks its clean-up.
The ranks answer the flag at their next step boundary and torchrun ends by itself after them. torchrun and the
ranks are in sessions of their own, so Ctrl-C on a terminal reaches the launcher alone.
"""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unimrg_api.environment import PodEnvironment, ports
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.launch import exit_records
from unimrg_trainer.launch.logs import tail, torchrun_log
from unimrg_trainer.launch.rank import STACKS_SIGNAL
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.verdict import GangOutcome, RankOutcome
from unimrg_trainer.launch.watchdog import Stall, Watchdog

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
STACKS_SECONDS = 2.0
"""How long ranks get to write their stacks."""
GONE_SECONDS = 5.0
"""How long a killed process may take to disappear; one in uninterruptible sleep never does, and is left
behind.
"""
GRACE_MARGIN = 15
"""Seconds of the grace period that are kept for what follows the ranks: logs, tracking, the termination
record.
"""
LOOPBACK = "127.0.0.1"
MASTER_SECONDS = 600
"""How long the name of the master may take to resolve: its pod may be scheduled later than ours."""


@dataclass
class Gang:
    """A running torchrun and the ranks it has started on this node, as far as they have registered."""

    process: subprocess.Popen[bytes]
    run_dir: Path
    processes: int
    log: Path
    log_start: int = 0
    """Where this gang's part of the log begins."""
    _ranks: dict[int, _Rank] = field(default_factory=dict)

    def observe(self) -> None:
        """Take note of ranks that have registered or ended."""
        for rank, pid in exit_records.registered(self.run_dir).items():
            if rank not in self._ranks:
                self._ranks[rank] = _Rank(pid)
        for process in self._ranks.values():
            process.observe()

    def signal_ranks(self, number: signal.Signals) -> None:
        """Send a signal to every rank that is alive."""
        for process in self._ranks.values():
            if process.alive():
                _send(os.kill, process.pid, number)

    def forward_stop(self) -> bool:
        """Ask the ranks to stop; False if none has started, so that there is nothing worth waiting for."""
        exit_records.ask_to_stop(self.run_dir)
        self.observe()
        self.signal_ranks(signal.SIGTERM)
        return bool(self._ranks)

    def kill(self) -> None:
        """SIGKILL torchrun and every rank with what it started, and wait until they are gone."""
        self.observe()
        if self.process.poll() is None:
            _send(os.killpg, self.process.pid, signal.SIGKILL)
        for process in self._ranks.values():
            if process.alive():
                _send(os.killpg, process.pid, signal.SIGKILL)
        deadline = time.monotonic() + GONE_SECONDS
        try:
            self.process.wait(GONE_SECONDS)
        except subprocess.TimeoutExpired:
            logger.error("torchrun (process %d) did not end after SIGKILL", self.process.pid)
        for rank, process in self._ranks.items():
            while process.alive() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS / 10)
            if process.alive():
                logger.error("rank %d (process %d) did not end after SIGKILL; left behind", rank, process.pid)
        self.observe()

    def log_text(self) -> str:
        """What torchrun has written, and ranks before they had a log of their own."""
        return tail(self.log, since=self.log_start).decode(errors="replace")

    def outcomes(self) -> tuple[RankOutcome, ...]:
        """How the ranks ended, for the verdict."""
        self.observe()
        records = exit_records.read_exits(self.run_dir)
        statuses = statuses_in_log(self.log_text())
        return tuple(
            RankOutcome(rank, records.get(rank), statuses.get(process.pid), process.ended_at)
            for rank, process in sorted(self._ranks.items())
        )


class _Rank:
    """A process that is not our child: a pidfd tells its end at once and is not fooled by a pid that is used
    again.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended_at: float | None = None
        self._descriptor: int | None = None
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self.ended_at = time.time()
        except (AttributeError, OSError):
            logger.debug("no pidfd on this system; process %d is looked up by its number", pid)

    def observe(self) -> None:
        if self.ended_at is not None:
            return
        if self._descriptor is not None:
            ended = bool(select.select([self._descriptor], [], [], 0)[0])
        else:
            ended = not _send(os.kill, self.pid, 0)
        if ended:
            self.ended_at = time.time()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def alive(self) -> bool:
        self.observe()
        return self.ended_at is None


def start(
    module: str,
    arguments: Sequence[str],
    env: PodEnvironment,
    *,
    overrides: Mapping[str, str] | None = None,
) -> Gang:
    """Start `env.processes` ranks of `python -m module arguments…` on this node; call it from the main
    thread.

    `overrides` are environment variables on top of ours.
    """
    exit_records.clear(env.run_dir)
    log = torchrun_log(env)
    log.parent.mkdir(parents=True, exist_ok=True)
    log_start = log.stat().st_size if log.exists() else 0
    address, port = env.master_address, ports(env.uid, env.attempt)[0]
    if env.nodes == 1:  # nobody else has to find it, and no name has to resolve
        address = LOOPBACK
        port = free_port(address, port)
    command = [
        sys.executable, "-m", "unimrg_trainer.launch.tether", str(os.getpid()),
        sys.executable, "-m", "torch.distributed.run",
        "--nnodes", str(env.nodes),
        "--nproc-per-node", str(env.processes),
        "--node-rank", str(env.node_rank),
        "--master-addr", address,
        "--master-port", str(port),
        "--max-restarts", "0",
        "-m", module, *arguments,
    ]  # fmt: skip
    environment = rank_environment(env) | dict(overrides or {})
    logger.info(
        "starting %d rank(s) with %s thread(s) each on node %d of %d, meeting at %s:%d; logs in %s",
        env.processes, environment["OMP_NUM_THREADS"], env.node_rank, env.nodes, address, port,
        log.parent,
    )  # fmt: skip
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    return Gang(process, env.run_dir, env.processes, log, log_start)


def rank_environment(env: PodEnvironment) -> dict[str, str]:
    """The variables that torchrun and its ranks get.

    The number of threads is fixed because it enters the order of summation: bit-exact resume needs it equal.
    Ranks of a single node talk over the loopback: a host name that does not resolve cannot hinder them, and nobody
    outside can reach them. Either may be set otherwise in our own environment.
    """
    alone = {"GLOO_SOCKET_IFNAME": "lo"} if env.nodes == 1 and sys.platform == "linux" else {}
    return {
        "OMP_NUM_THREADS": str(max(1, cores() // env.processes)),
        **alone,
        **os.environ,
        **env.to_environ(),
        "PYTHONUNBUFFERED": "1",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(stop_seconds(env.grace)),
    }


def cores() -> int:
    """CPU cores that this process may use: affinity, and in a container its quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        logger.debug("no CPU quota of a control group")
    return count


def stop_seconds(grace: int) -> int:
    """How long ranks may take to stop, of a grace period of `grace` seconds."""
    return max(1, grace - GRACE_MARGIN, grace // 2)


def free_port(address: str, preferred: int) -> int:
    """The preferred port if it is free at `address`, else any other; for gangs of one node, which need not
    agree.
    """
    for port in (preferred, 0):
        try:
            with socket.create_server((address, port)) as server:
                found: int = server.getsockname()[1]
        except OSError:
            logger.info("port %d at %s is in use; taking another", port, address)
        else:
            return found
    return preferred


def wait_for_master(env: PodEnvironment, stop: StopRequest, limit: float = MASTER_SECONDS) -> None:
    """Wait until the master's name resolves: other nodes' pods may be scheduled later than this one.

    Raises UserError with exit code 69 after `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while env.nodes > 1 and not stop.requested:
        try:
            socket.getaddrinfo(env.master_address, None)
            return
        except socket.gaierror as error:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"the master {env.master_address} did not resolve within {limit:.0f} s: {error}",
                    remedy="see whether the pod of node 0 is running and its headless service exists",
                    exit_code=ExitCode.UNAVAILABLE,
                ) from error
        time.sleep(min(1.0, limit))


def supervise(
    gang: Gang,
    *,
    stop: StopRequest,
    grace: int,
    watchdog: Watchdog | None = None,
    heartbeat: Callable[[], Hashable | None] = lambda: None,
    on_poll: Callable[[], None] = lambda: None,
    stall_timeout: float = 0.0,
) -> GangOutcome:
    """Wait for the gang; stop, kill or give up on it as signals and heartbeats demand. Nothing of it is left
    after.

    `grace` is in seconds, from the request to the end. `on_poll` is called about ten times per second.
    """
    deadline: float | None = None
    stall: Stall | None = None
    overdue = False
    try:
        while gang.process.poll() is None:
            gang.observe()
            on_poll()
            now = time.monotonic()
            if stop.twice:
                break
            if stop.requested and deadline is None:
                logger.info("%s: the ranks stop at their next step and commit", stop.cause)
                deadline = now + stop_seconds(grace)
                if not gang.forward_stop():
                    break
            if deadline is not None and now > deadline:
                logger.error("the ranks did not stop within %d s; killing them", stop_seconds(grace))
                overdue = True
                break
            if deadline is None and watchdog is not None:
                stall = watchdog.observe(heartbeat(), now)
                if stall is not None:
                    logger.error("nothing advanced for %.0f s; writing stacks, then killing the ranks", stall.seconds)
                    gang.signal_ranks(STACKS_SIGNAL)
                    time.sleep(STACKS_SECONDS)
                    break
            time.sleep(POLL_SECONDS)
    finally:
        ended_by_itself = gang.process.poll()
        gang.kill()
        on_poll()
    return GangOutcome(
        ranks=gang.outcomes(),
        processes=gang.processes,
        torchrun_status=ended_by_itself,
        torchrun_log=gang.log_text(),
        stop_requested=stop.requested,
        interrupted_twice=stop.twice,
        overdue=overdue,
        stall=stall,
        stall_timeout=stall_timeout,
    )


_STATUS = re.compile(r"exitcode\s*:\s*(-?\d+)\)?\s*(?:local_rank: \d+ )?\(pid: (\d+)\)")


def statuses_in_log(text: str) -> dict[int, int]:
    """Exit statuses that torchrun reports, by process id (negative: killed by that signal).

    The launcher cannot wait for ranks, which are torchrun's children; this is only used where a rank left no
    record.
    """
    return {int(pid): int(status) for status, pid in _STATUS.findall(text)}


def _send(call: Callable[[int, int], None], pid: int, number: int) -> bool:
    """Signal a process or group; False if it is gone."""
    try:
        call(pid, number)
    except ProcessLookupError:
        return False
    return True
