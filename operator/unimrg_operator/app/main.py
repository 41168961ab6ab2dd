"""`unimrg-operator`: turns UniMRGJobs of some namespaces into the jobs and pods that do their work.

One process does it: there is no leader election, so its Deployment has one replica and the strategy Recreate. Two at
once would do no harm to a job, for children are made by name and every status is written against the version that was
read, but they would get in each other's way. It reads and writes in the namespaces that it is given and nowhere else,
so a Role in each of them is all that it needs.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
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
from unimrg_operator.app.progress_poller import POLL_SECONDS, ProgressPoller
from unimrg_operator.app.world import JobKey, World
from unimrg_operator.backends.profile import load_profile
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.core.decide import decide
from unimrg_operator.kube.client import Client
from unimrg_operator.kube.errors import ConfigurationError
from unimrg_operator.kube.queue import WorkQueue

logger = logging.getLogger("unimrg_operator")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    options = _parser().parse_args(arguments)
    set_up_logging()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        run(options, stop)
    except ConfigurationError as error:
        return _refuse(UserError(str(error), remedy="give --kubeconfig FILE, or run in a pod with a service account"))
    except UserError as error:
        return _refuse(error)
    return int(ExitCode.OK)


def run(options: argparse.Namespace, stop: threading.Event) -> None:
    """Run until `stop` is set.

    Raises UserError or ConfigurationError where it cannot even begin. An API server that does not answer is no such
    case: it is asked again.
    """
    namespaces: list[str] = options.namespace
    backends = SiteBackends(load_profile(options.profile))
    # Each namespace has its watches, and each worker a request.
    client = Client.from_environment(options.kubeconfig, options.context, pool_size=8 * len(namespaces) + WORKERS)
    metrics = Metrics()
    queue: WorkQueue[JobKey] = WorkQueue()
    world = World(client, backends, namespaces, queue.add, metrics)
    poller = ProgressPoller(world.pods_of_children, queue.add, seconds=options.progress_seconds)
    applier = Applier(client, backends, Publisher(client), world.written, world.created)
    nodes = Nodes(client, lambda name: list(map(queue.add, world.jobs_on(name)))) if options.watch_nodes else None
    controller = Controller(world, backends, queue, applier, decide, poller, Warnings(client), metrics, nodes=nodes)
    health = health_server(options.metrics_address, controller, world, metrics)
    logger.info("looking after %s at %s", ", ".join(namespaces), client.host)
    health.start()
    world.start()
    if nodes is not None:
        nodes.start()
    controller.start()
    threading.Thread(target=poller.run, name="progress", daemon=True).start()
    stop.wait()
    logger.info("stopping")
    poller.stop()
    controller.stop()
    world.stop()
    health.stop()
    client.close()


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
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: KUBECONFIG, else this pod's account")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig; default: its current one")
    parser.add_argument(
        "--progress-seconds",
        type=_seconds,
        default=POLL_SECONDS,
        metavar="N",
        help="how often running jobs are asked for their progress, at least 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--watch-nodes",
        action="store_true",
        help="see which nodes are ready, so that a machine's restart uses up no budget; needs list and watch of nodes",
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1.0 <= seconds <= 3600.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 1 to 3600")
    return seconds


def _refuse(error: UserError) -> int:
    print(f"unimrg-operator: {error}", file=sys.stderr)  # noqa: T201 - a person started it
    return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main())
