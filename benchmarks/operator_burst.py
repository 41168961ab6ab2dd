"""How fast a thousand jobs get their children, beside a bare loop that creates the same objects.

python benchmarks/operator_burst.py [--quick]

On a real API server with Training Operator, whose pods kwok runs. The jobs are there before the operator starts; its
time is from being ready until every job has its PyTorchJob, which takes the check's Job, its end and several statuses
before. The loop has the Jobs and PyTorchJobs rendered beforehand and only sends them, by the same client at the same
rate. Each has a control plane of its own, and they take turns: loop, operator, operator, loop. Ends with one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.kwok_cluster import KwokCluster, fresh_kwok_cluster, job_object
from unimrg_api.load import parse_job
from unimrg_operator.backends.children import first_attempts
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.kube.throttle import Priority, WriteLimit

TARGET = 1.2
QPS = 50.0


def pytorchjobs(cluster: KwokCluster) -> int:
    """Return how many PyTorchJobs there are."""
    client = cluster.client()
    resource = SiteBackends(SiteProfile()).resource("train")
    page = client._request("GET", f"/apis/{resource.group}/v1/namespaces/bench/{resource.plural}", query={"limit": "1"})
    client.close()
    return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))


def operator_seconds(folder: Path, jobs: int, qps: float) -> float:
    """Return the time that the operator takes."""
    with fresh_kwok_cluster(folder) as cluster:
        for start in range(0, jobs, 200):
            cluster.submit(*(f"job-{number}" for number in range(start, min(start + 200, jobs))), nodes=1)
        cluster.operator(f"--qps={qps:g}")
        began = time.monotonic()
        while (count := pytorchjobs(cluster)) < jobs:
            print(f"operator: {count} after {time.monotonic() - began:.0f} s", file=sys.stderr)
            time.sleep(1.0)
        return time.monotonic() - began


def loop_seconds(folder: Path, jobs: int, qps: float) -> float:
    """Return the time that a loop takes which creates the same objects."""
    profile = SiteProfile(image="unimrg-trainer:test")
    backends = SiteBackends(profile)
    with fresh_kwok_cluster(folder) as cluster:
        children = []
        for number in range(jobs):
            job = parse_job(job_object(f"job-{number}", "bench", nodes=1))
            attempts = [attempt for attempt in first_attempts(job, "bench") if attempt.stage in ("check", "train")]
            children += [(backends.resource(attempt.stage), backends.render(attempt)) for attempt in attempts]
        client, limit = cluster.client(), WriteLimit(qps)
        client.guard_writes(limit.wait, lambda: True)
        limit.wait(Priority.ACTION)
        began = time.monotonic()
        for resource, child in children:
            client.create(resource, "bench", child)
        return time.monotonic() - began


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 jobs at 10 requests per second")
    jobs, qps = (100, 10.0) if parser.parse_args().quick else (1000, QPS)
    with tempfile.TemporaryDirectory() as folder:
        turns = (loop_seconds, operator_seconds, operator_seconds, loop_seconds)
        times = [run(Path(folder) / str(number), jobs, qps) for number, run in enumerate(turns)]
    loop, operator = times[::3], times[1:3]
    ratio = sum(operator) / sum(loop)
    figures = {
        "jobs": jobs,
        "qps": qps,
        "operatorSeconds": [round(seconds, 1) for seconds in operator],
        "loopSeconds": [round(seconds, 1) for seconds in loop],
    }
    machine = f"{os.cpu_count()} x {platform.machine()}"
    report = {"name": "operator_burst", "figures": figures, "ratio": round(ratio, 2), "target": TARGET}
    print(json.dumps({**report, "holds": ratio <= TARGET, "machine": machine}))


if __name__ == "__main__":
    main()
