"""The ranks of this node as child processes of the launcher: starts them, forwards stop requests, kills them.

Rank, world size and rendezvous are known from the pod's environment, so no torchrun agent is needed. Each rank has its
own session, so Ctrl-C on a terminal reaches only the launcher, which decides what follows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unimrg_api.environment import PodEnvironment, ports
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.launch import exit_records
from unimrg_trainer.launch.classification import RankExit, WorkerGroupExit
from unimrg_trainer.launch.logs import rank_log, tail
from unimrg_trainer.launch.rank import BLOCKED_SIGNALS, PARENT_VARIABLE, STACKS_SIGNAL
from unimrg_trainer.launch.signals import StopRequest
from unimrg_trainer.launch.watchdog import Heartbeat, Stall, Watchdog
from unimrg_trainer.sections import clear_positions

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
STACKS_SECONDS = 2.0
"""Time for ranks to write their stacks."""
REAP_SECONDS = 5.0
"""Time to wait for a killed process; one in uninterruptible sleep never ends, and is left orphaned."""
FAILURE_GRACE_SECONDS = 30.0
"""Time for the other ranks of the node to stop once one has failed."""
GRACE_MARGIN_SECONDS = 15
"""Part of the grace period that is reserved for what follows the ranks: logs, tracking, the termination record."""
MASTER_SECONDS = 600
"""Limit until the master's name resolves: its pod may be scheduled later than ours."""


@dataclass
class _Worker:
    """One rank's process."""

    rank: int
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int
    """Byte position at which this process's part of the log begins."""
    ended_at: float | None = None
    """When its end was observed, Unix time in seconds."""
    killed: bool = False
    """The launcher killed it."""

    def is_running(self) -> bool:
        if self.ended_at is None and self.process.poll() is not None:
            self.ended_at = time.time()
        return self.ended_at is None

    def last_line(self) -> str:
        lines = tail(self.log, since=self.log_start).decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


class WorkerGroup:
    """The ranks of one stage on this node."""

    def __init__(self, workers: Sequence[_Worker], run_dir: Path) -> None:
        self._workers = workers
        self._run_dir = run_dir

    def is_running(self) -> bool:
        """Whether any rank is running."""
        # no any(): every worker must be polled, since polling sets ended_at
        return [worker for worker in self._workers if worker.is_running()] != []

    def has_failed(self) -> bool:
        """Whether a rank has ended, neither completed nor interrupted."""
        expected = (int(ExitCode.OK), int(ExitCode.INTERRUPTED))
        return any(not worker.is_running() and worker.process.returncode not in expected for worker in self._workers)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every running rank; one that is starting gets it once its handlers are installed."""
        for worker in self._workers:
            if worker.is_running():
                worker.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL every running rank and all processes that ranks have started, and wait for the ranks."""
        running = [worker for worker in self._workers if worker.is_running()]
        for worker in self._workers:
            worker.killed = worker in running
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + REAP_SECONDS
        for worker in running:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.error(
                    "rank %d (process %d) did not end after SIGKILL; left orphaned", worker.rank, worker.process.pid
                )
            worker.is_running()

    def ends(self) -> tuple[RankExit, ...]:
        """The end of each rank."""
        records = exit_records.read_exits(self._run_dir)
        return tuple(
            RankExit(
                worker.rank,
                records.get(worker.rank),
                worker.process.returncode,
                worker.ended_at,
                killed_by_launcher=worker.killed,
                last_line="" if worker.rank in records else worker.last_line(),
            )
            for worker in self._workers
        )


def start(
    module: str,
    arguments: Sequence[str],
    env: PodEnvironment,
    logs: Path,
    *,
    overrides: Mapping[str, str] | None = None,
) -> WorkerGroup:
    """Start `env.processes` ranks of `python -m module arguments…` on this node; call it from the main thread.

    Each rank's log is appended to a file in `logs`. `overrides` are environment variables that override the
    launcher's. Rendezvous is
    at the address and port of global rank 0.
    """
    exit_records.clear(env.run_dir)
    clear_positions(env.run_dir)
    address, port = env.master_address, ports(env.uid, env.attempt)[0]
    if env.nodes == 1:  # loopback suffices, and no name has to resolve
        address = "127.0.0.1"
        port = free_port(address, port)
    environment = {
        **group_environment(env),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(env.nodes * env.processes),
        "LOCAL_WORLD_SIZE": str(env.processes),
        PARENT_VARIABLE: str(os.getpid()),
        **(overrides or {}),
    }
    logger.info(
        "starting %d rank(s) with %s thread(s) each on node %d of %d, rendezvous at %s:%d",
        env.processes, environment["OMP_NUM_THREADS"], env.node_rank, env.nodes, address, port,
    )  # fmt: skip
    logs.mkdir(parents=True, exist_ok=True)
    workers: list[_Worker] = []
    group = WorkerGroup(workers, env.run_dir)
    # A rank inherits the blocked signal mask and unblocks the signals once its handlers are installed.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
    try:
        for local_rank in range(env.processes):
            rank = env.node_rank * env.processes + local_rank
            log = rank_log(logs, rank)
            with log.open("ab") as output:
                log_start = output.seek(0, os.SEEK_END)
                process = subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**environment, "RANK": str(rank), "LOCAL_RANK": str(local_rank)},
                    start_new_session=True,
                )
            workers.append(_Worker(rank, process, log, log_start))
    except BaseException:
        group.kill()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return group


def group_environment(env: PodEnvironment) -> dict[str, str]:
    """The environment variables of all ranks of the node.

    The number of threads is fixed because it changes the order of summation: bit-exact resume needs it equal. Ranks of
    a single node use the loopback, which needs no name resolution and is not reachable from outside. Variables that
    are already set, and not empty, in the launcher's environment take precedence.
    """
    defaults = {"OMP_NUM_THREADS": str(max(1, cores() // env.processes))}
    if env.nodes == 1:
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
    return {
        **os.environ,
        **{name: os.environ.get(name) or value for name, value in defaults.items()},
        **env.to_environ(),
        "PYTHONUNBUFFERED": "1",
    }


def cores() -> int:
    """CPU cores that this process may use: affinity, and in a container its quota."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        logger.debug("no CPU quota of a control group")
    return count


def free_port(address: str, preferred: int) -> int:
    """The preferred port if it is free at `address`, else any other; for a single node, as no other node needs it."""
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
    group: WorkerGroup,
    *,
    stop: StopRequest,
    grace: int,
    watchdog: Watchdog | None = None,
    heartbeat: Callable[[], Heartbeat | None] = lambda: None,
    terminates_on_stall: bool = True,
    lease_lost: Callable[[], bool] = lambda: False,
) -> WorkerGroupExit:
    """Wait until all ranks have ended; stop or kill them on signals, a failed rank or a stall.

    Once `lease_lost`, another attempt writes where these ranks do: they are killed before they save anything.

    No rank is running when it returns. `grace` is in seconds, from the stop request to the end. With
    `terminates_on_stall` a stall ends the group; otherwise it only has the stacks dumped, and another node's launcher
    ends the attempt.
    """
    stop_deadline = failure_deadline = float("inf")
    stall: Stall | None = None
    grace_exceeded = False
    try:
        while group.is_running() and not stop.twice and not lease_lost():
            now = time.monotonic()
            if stop.requested and stop_deadline == float("inf"):
                logger.info("%s: the ranks stop after their next step and save a checkpoint", stop.cause)
                stop_deadline = now + max(1, grace - GRACE_MARGIN_SECONDS, grace // 2)
                group.signal(signal.SIGTERM)
            if failure_deadline == float("inf") and group.has_failed():
                logger.error("a rank failed; the others are asked to stop, and killed in %.0f s", FAILURE_GRACE_SECONDS)
                failure_deadline = now + FAILURE_GRACE_SECONDS
                group.signal(signal.SIGTERM)
            if now > min(stop_deadline, failure_deadline):
                grace_exceeded = stop_deadline <= failure_deadline
                logger.error("not all ranks stopped in time; killing them")
                break
            if stop_deadline == failure_deadline == float("inf") and watchdog is not None:
                stall = watchdog.observe(heartbeat(), now)
                if stall is not None:
                    logger.error("no progress for %.0f s (%s); dumping stacks", stall.seconds, stall.heartbeat)
                    group.signal(STACKS_SIGNAL)
                    if terminates_on_stall:
                        time.sleep(STACKS_SECONDS)
                        break
                    stall = watchdog = None
            time.sleep(POLL_SECONDS)
    finally:
        group.kill()
    return WorkerGroupExit(group.ends(), stop.requested, stop.twice, grace_exceeded, stall)
