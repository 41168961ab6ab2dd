"""Memory and writes of the operator at rest, with thousands of finished jobs and hundreds of running ones.

python benchmarks/operator_memory.py [--quick] [--kopf PYTHON]

On a real API server with Training Operator, whose pods kwok runs. 500 jobs with a pod each are brought to run by an
operator, which is then stopped; 9,500 finished ones are written beside them, each with the status of a job that
succeeded and without children, as after its time to live. Then an operator starts as leader, and when it has seen
everything its resident memory is read, and for a minute the writes that the API server got from its account. With
`--kopf`, the interpreter of an environment with kopf, the plainest operator in kopf looks after the same jobs. Ends
with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.guarded import GuardedProcess
from tests.support.kwok_cluster import SYSTEM, KwokCluster, fresh_kwok_cluster, job_object
from unimrg_operator.app.world import JOBS

TARGET = 120.0
"""MiB."""
REST_SECONDS = 60.0
KOPF = """
import kopf
@kopf.on.startup()
def configure(settings, **_):
    settings.posting.enabled = False
@kopf.on.create("training.unimrg.dev", "v1alpha1", "unimrgjobs")
@kopf.on.resume("training.unimrg.dev", "v1alpha1", "unimrgjobs")
@kopf.on.update("training.unimrg.dev", "v1alpha1", "unimrgjobs")
def seen(**_):
    pass
"""


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def writes(cluster: KwokCluster) -> dict[str, int]:
    """Return how many writes the API server has had, by resource, of those that an operator makes."""
    text = cluster.control_plane.kubectl("get", "--raw", "/metrics")
    found: dict[str, int] = {}
    for line in text.splitlines():
        if not line.startswith("apiserver_request_total{"):
            continue
        labels = dict(
            part.split("=", 1) for part in line[line.index("{") + 1 : line.rindex("}")].split(",") if "=" in part
        )
        resource, verb = labels.get("resource", "").strip('"'), labels.get("verb", "").strip('"')
        if verb in ("POST", "PUT", "PATCH", "DELETE") and resource in ("unimrgjobs", "pytorchjobs", "jobs", "events"):
            found[resource] = found.get(resource, 0) + int(float(line.rpartition(" ")[2]))
    return found


def bring_to_run(cluster: KwokCluster, count: int) -> None:
    """Have an operator bring so many jobs to run, and end it."""
    cluster.submit(*(f"live-{number}" for number in range(count)), nodes=1)
    operator = cluster.operator("--qps=200")
    cluster.until(lambda: list(cluster.phases().values()).count("Running") == count, 1200.0)
    operator.stop()


def write_finished(cluster: KwokCluster, count: int) -> None:
    """Write so many jobs that succeeded."""
    client = cluster.client()
    example = next(iter(cluster.jobs().values()))["status"]
    stages = [
        {**stage, "state": "Succeeded", "completionTime": stage["startTime"]}
        for stage in example["stages"]
        if stage["attempt"]
    ]
    status: dict[str, Any] = {**example, "phase": "Succeeded", "reason": "Completed", "stages": stages}
    status["completionTime"] = example["startTime"]

    def write(number: int) -> None:
        name = f"done-{number}"
        made = client.create(JOBS, "bench", job_object(name, "bench"))
        client.patch_status(JOBS, "bench", name, status, resource_version=made["metadata"]["resourceVersion"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(count)))
    client.close()


def measure(cluster: KwokCluster, process: GuardedProcess, settle: float) -> tuple[float, float, dict[str, int]]:
    """Return the memory of a process at rest and at most, in MiB, and the writes of a minute."""
    time.sleep(settle)
    before = writes(cluster)
    time.sleep(REST_SECONDS)
    after = writes(cluster)
    most = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in line)
    made = {kind: after[kind] - before.get(kind, 0) for kind in after if after[kind] != before.get(kind, 0)}
    return resident(process.pid), int(most.split()[1]) / 1024, made


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="950 finished and 50 running jobs")
    parser.add_argument("--kopf", metavar="PYTHON", help="an interpreter that can import kopf")
    options = parser.parse_args()
    finished, live = (950, 50) if options.quick else (9500, 500)
    figures: dict[str, Any] = {"finished": finished, "live": live}
    with tempfile.TemporaryDirectory() as name, fresh_kwok_cluster(Path(name), run_seconds=86400.0) as cluster:
        bring_to_run(cluster, live)
        write_finished(cluster, finished)
        operator = cluster.operator("--leader-elect", f"--lease-namespace={SYSTEM}")
        rest, most, made = measure(cluster, operator, 30.0)
        figures |= {"restMiB": round(rest, 1), "mostMiB": round(most, 1), "writesPerMinute": made}
        operator.stop()
        if options.kopf:
            program = Path(name) / "plain.py"
            program.write_text(KOPF)
            command = [options.kopf, "-m", "kopf", "run", "--namespace=bench", str(program)]
            environment = {**os.environ, "KUBECONFIG": str(cluster.control_plane.kubeconfig)}
            plain = GuardedProcess(command, Path(name) / "kopf.log", environment=environment)
            first = writes(cluster)
            rest_kopf, most_kopf, _ = measure(cluster, plain, 60.0 if options.quick else 180.0)
            total = {kind: count - first.get(kind, 0) for kind, count in writes(cluster).items()}
            figures["kopf"] = {"restMiB": round(rest_kopf, 1), "mostMiB": round(most_kopf, 1), "writes": total}
            plain.stop()
    report = {"name": "operator_memory", "figures": figures, "ratio": round(rest / TARGET, 2), "target": TARGET}
    machine = f"{os.cpu_count()} x {platform.machine()}, Python {platform.python_version()}"
    print(json.dumps({**report, "holds": rest <= TARGET and not made, "machine": machine}))


if __name__ == "__main__":
    main()
