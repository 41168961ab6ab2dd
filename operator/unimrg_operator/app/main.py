"""`unimrg-operator`: turns UniMRGJobs of some namespaces into the jobs and pods that do their work.

With `--leader-elect` several replicas may run: one leads, the others keep their caches filled and do nothing. A leader
that cannot renew its Lease ends, and is started again as a candidate. The operator reads and writes in the namespaces
that it is given, and its Lease in its own, so a Role in each of them is all that it needs.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_operator.app.apply import Applier
from unimrg_operator.app.controller import WORKERS, Controller
from unimrg_operator.app.events import Publisher, Warnings
from unimrg_operator.app.health import health_server
from unimrg_operator.app.log import set_up_logging
from unimrg_operator.app.metrics import Metrics
from unimrg_operator.app.nodes import Nodes
from unimrg_operator.app.outbox import Outbox
from unimrg_operator.app.progress_poller import POLL_SECONDS, ProgressPoller
from unimrg_operator.app.world import JobKey, World
from unimrg_operator.backends.profile import load_profile
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.core.decide import decide
from unimrg_operator.kube.client import Client, own_namespace
from unimrg_operator.kube.errors import ConfigurationError
from unimrg_operator.kube.lease import RENEW_SECONDS, LeaderLease
from unimrg_operator.kube.queue import WorkQueue
from unimrg_operator.kube.throttle import WriteLimit

logger = logging.getLogger("unimrg_operator")

QPS = 50.0
LEASE = "unimrg-operator"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    options = _parser().parse_args(arguments)
    set_up_logging()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        return int(run(options, stop))
    except ConfigurationError as error:
        return _refuse(UserError(str(error), remedy="give --kubeconfig FILE, or run in a pod with a service account"))
    except UserError as error:
        return _refuse(error)


def run(options: argparse.Namespace, stop: threading.Event) -> ExitCode:
    """Run until `stop` is set, or the leadership is lost: UNAVAILABLE.

    Raises UserError or ConfigurationError where it cannot even begin. An API server that does not answer is no such
    case: it is asked again.
    """
    namespaces: list[str] = options.namespace
    backends = SiteBackends(load_profile(options.profile))
    # Each namespace has its watches, and each worker a request.
    client = Client.from_environment(options.kubeconfig, options.context, pool_size=8 * len(namespaces) + WORKERS)
    lease = _lease(options)
    limit = WriteLimit(options.qps)
    client.guard_writes(limit.wait, lambda: lease is None or lease.held)
    metrics = Metrics()
    metrics.leader.set_function(lambda: float(lease is None or lease.held))
    queue: WorkQueue[JobKey] = WorkQueue()
    world = World(client, backends, namespaces, queue.add, metrics, kueue=options.kueue)
    poller = ProgressPoller(world.pods_of_children, queue.add, seconds=options.progress_seconds)
    outbox = Outbox(Publisher(client))
    applier = Applier(client, backends, outbox.publish, world.written, world.created)
    nodes = Nodes(client, lambda name: list(map(queue.add, world.jobs_on(name)))) if options.watch_nodes else None
    controller = Controller(world, backends, queue, applier, decide, poller, Warnings(client), metrics, nodes=nodes)
    health = health_server(options.metrics_address, controller, world, metrics)
    logger.info("looking after %s at %s", ", ".join(namespaces), client.host)
    health.start()
    world.start()
    if nodes is not None:
        nodes.start()
    if lease is None or lease.acquire(stop):
        controller.start()
        outbox.start()
        threading.Thread(target=poller.run, name="progress", daemon=True).start()
    if lease is not None and not lease.wait(stop):
        # Another replica may lead by now: nothing more is written, so there is nothing to bring to an end.
        logger.error("the Lease is lost: ending")
        poller.stop()
        health.stop()  # a thread that begins for a probe while Python ends would crash it
        return ExitCode.UNAVAILABLE
    stop.wait()
    logger.info("stopping")
    poller.stop()
    controller.stop()
    outbox.stop()
    if lease is not None:
        lease.release()
    world.stop()
    health.stop()
    client.close()
    return ExitCode.OK


def _lease(options: argparse.Namespace) -> LeaderLease | None:
    """Return the Lease that the flags ask for. Raises UserError where its namespace is not known."""
    if not options.leader_elect:
        return None
    namespace = options.lease_namespace or own_namespace()
    if namespace is None:
        raise UserError("--leader-elect needs to know the Lease's namespace", remedy="give --lease-namespace NAME")
    # A client of its own, whose requests wait for nothing and end before the Lease does.
    client = Client.from_environment(
        options.kubeconfig, options.context, pool_size=1, request_seconds=RENEW_SECONDS / 2
    )
    return LeaderLease(client, namespace, options.lease_name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unimrg-operator", description="Runs UniMRGJobs on this cluster.")
    parser.add_argument(
        "--namespace",
        action="append",
        required=True,
        metavar="NAME",
        help="namespace to look after; give it again for more",
    )
    parser.add_argument("--profile", type=Path, metavar="FILE", help="what this site's nodes and images are (YAML)")
    parser.add_argument(
        "--metrics-address",
        default="0.0.0.0:8080",
        metavar="HOST:PORT",
        help="where /healthz, /readyz and /metrics are served (default: %(default)s)",
    )
    parser.add_argument(
        "--kueue",
        action="store_true",
        help="say why jobs wait in a queue of Kueue and at which position; needs list and watch on its workloads",
    )
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: KUBECONFIG, else this pod's account")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig; default: its current one")
    parser.add_argument(
        "--progress-seconds",
        type=_number_up_to(3600, "seconds"),
        default=POLL_SECONDS,
        metavar="N",
        help="how often running jobs are asked for their progress, at least 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--qps",
        type=_number_up_to(10_000, "requests"),
        default=QPS,
        metavar="N",
        help="most creations and deletions per second; twice as many statuses and events (default: %(default)s)",
    )
    parser.add_argument(
        "--leader-elect", action="store_true", help="act only while holding a Lease: for several replicas"
    )
    parser.add_argument("--lease-namespace", metavar="NAME", help="where the Lease is; default: this pod's namespace")
    parser.add_argument("--lease-name", default=LEASE, metavar="NAME", help="default: %(default)s")
    parser.add_argument(
        "--watch-nodes",
        action="store_true",
        help="see which nodes are ready, so that a machine's restart uses up no budget; needs list and watch of nodes",
    )
    return parser


def _number_up_to(most: float, unit: str) -> Callable[[str], float]:
    """Return what reads a flag of 1 to `most` of a unit."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 1.0 <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of {unit} from 1 to {most:.0f}")
        return number

    return read


def _refuse(error: UserError) -> int:
    print(f"unimrg-operator: {error}", file=sys.stderr)  # noqa: T201 - a person started it
    return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main())
