"""Memory and writes of the operator at rest, with thousands of finished jobs and hundreds of running ones.

python benchmarks/operator_memory.py [--quick] [--kopf PYTHON]

On a real API server with Training Operator, whose pods kwok runs. One job is brought to run by an operator, which is
then stopped. Copies of it, its children and its pods are written into etcd, where the API server finds them: 500 jobs
that run, with a check and a pod in training each, and 9,500 that succeeded, without children, as after their time to
live. Then an operator starts as leader, and when it has seen everything its resident memory is read, and for a minute
how many writes the API server got. (Training Operator is stopped meanwhile: it would make what the copies lack.) With
`--kopf`, the interpreter of an environment with kopf, the plainest operator in kopf looks after the same jobs. Ends
with one line of JSON.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import re
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.guarded import GuardedProcess
from tests.support.kwok_cluster import SYSTEM, KwokCluster, fresh_kwok_cluster
from unimrg_api.cluster import GROUP, PLURAL

KEYS = (f"{GROUP}/{PLURAL}", "kubeflow.org/pytorchjobs", "jobs", "pods")
"""Where etcd has jobs, their children, and pods."""
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
        if verb in ("POST", "PUT", "PATCH", "DELETE") and resource in ("unimrgjobs", "pytorchjobs", "jobs"):
            found[resource] = found.get(resource, 0) + int(float(line.rpartition(" ")[2]))
    return found


def prepare(cluster: KwokCluster, finished: int, live: int) -> None:
    """Have one job brought to run, and write so many copies of it."""
    cluster.submit("live-0", nodes=1)
    operator = cluster.operator()
    cluster.until(lambda: cluster.phases()["live-0"] == "Running", 600.0)
    operator.stop()
    cluster.control_plane.processes["training-operator"].kill()
    kinds = (f"{PLURAL}.{GROUP}", "pytorchjobs.kubeflow.org", "jobs.batch", "pods")
    templates = dict(zip(KEYS, (cluster.list(kind) for kind in kinds), strict=True))
    text = json.dumps({key: items for key, items in templates.items() if items})
    for number in range(1, live):
        put(cluster, json.loads(copy_of(text, f"live-{number}")))
    (job,) = templates[KEYS[0]]
    job["status"] |= {"phase": "Succeeded", "reason": "Completed", "completionTime": job["status"]["startTime"]}
    for stage in job["status"]["stages"]:
        stage |= {"state": "Succeeded"} if stage.get("attempt") else {}
    text = json.dumps({KEYS[0]: [job]})
    for number in range(finished):
        put(cluster, json.loads(copy_of(text, f"done-{number}")))


def copy_of(text: str, name: str) -> str:
    """Return objects under another name, with uids of their own."""
    for uid in set(re.findall("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", text)):
        text = text.replace(uid, str(uuid.uuid4()))
    return text.replace("live-0", name)


def put(cluster: KwokCluster, objects: dict[str, list[dict[str, Any]]]) -> None:
    """Write objects into etcd, by the part of their keys that says the kind."""
    operations = []
    for key, items in objects.items():
        for item in items:
            item["metadata"].pop("resourceVersion", None)
            path = f"/registry/{key}/bench/{item['metadata']['name']}"
            pair = {"key": path.encode(), "value": json.dumps(item).encode()}
            operations.append({"requestPut": {name: base64.b64encode(value).decode() for name, value in pair.items()}})
    url = f"http://127.0.0.1:{cluster.control_plane.ports['etcd']}/v3/kv/txn"
    request = urllib.request.Request(url, json.dumps({"success": operations}).encode())
    with urllib.request.urlopen(request, timeout=60.0) as answer:
        answer.read()


def measure(cluster: KwokCluster, process: GuardedProcess) -> tuple[float, float, dict[str, int]]:
    """Return the memory of a process at rest and at most, in MiB, and the writes of the last of at most ten minutes.

    It is at rest in the first minute without a write: before, it looks at every job once.
    """
    for _ in range(10):
        before = writes(cluster)
        time.sleep(REST_SECONDS)
        after = writes(cluster)
        made = {kind: after[kind] - before.get(kind, 0) for kind in after if after[kind] != before.get(kind, 0)}
        if not made:
            break
    most = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in line)
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
        prepare(cluster, finished, live)
        operator = cluster.operator("--leader-elect", f"--lease-namespace={SYSTEM}")
        rest, most, made = measure(cluster, operator)
        figures |= {"restMiB": round(rest, 1), "mostMiB": round(most, 1), "writesPerMinute": made}
        print(json.dumps(figures), file=sys.stderr)
        operator.stop()
        if options.kopf:
            program = Path(name) / "plain.py"
            program.write_text(KOPF)
            command = [options.kopf, "-m", "kopf", "run", "--namespace=bench", str(program)]
            environment = {**os.environ, "KUBECONFIG": str(cluster.control_plane.kubeconfig)}
            plain = GuardedProcess(command, Path(name) / "kopf.log", environment=environment)
            first = writes(cluster)
            rest_kopf, most_kopf, _ = measure(cluster, plain)
            total = {kind: count - first.get(kind, 0) for kind, count in writes(cluster).items()}
            figures["kopf"] = {"restMiB": round(rest_kopf, 1), "mostMiB": round(most_kopf, 1), "writes": total}
            plain.stop()
    report = {"name": "operator_memory", "figures": figures, "ratio": round(rest / TARGET, 2), "target": TARGET}
    machine = f"{os.cpu_count()} x {platform.machine()}, Python {platform.python_version()}"
    print(json.dumps({**report, "holds": rest <= TARGET and not made, "machine": machine}))


if __name__ == "__main__":
    main()
