"""What MLflow's absence costs a training, and whether every point is there once afterwards.

python benchmarks/mlflow_outage.py [--quick]

A child process plays rank 0: it computes steps of 0.2 s, and after each calls the tracker's writer as the train stage
does, with a closed segment every few steps; the time in those calls is measured in the same process. Beside it runs
the launcher's uploader. Runs with a server that is up and with one that is down alternate; one more has a server that
takes connections and never answers. Afterwards the server is started, the spools are sent, twice, and the points on
the server are counted. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.mlflow_server import MlflowServer
from tests.support.tcp_gate import TcpGate
from unimrg_trainer.tracking.settings import TrackingSettings
from unimrg_trainer.tracking.upload import SENT
from unimrg_trainer.tracking.uploader import Uploader, finish

TARGET = 0.005
"""Largest share of the training thread's wall time in tracking calls."""
METRICS = 12
TRAINING = """
import sys, time
from pathlib import Path
from unimrg_trainer.tracking.spool import Spool
folder, steps, step_seconds, metrics = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
start = time.perf_counter()
tracked = 0.0
def call(method, *arguments):
    global tracked
    began = time.perf_counter()
    method(*arguments)
    tracked += time.perf_counter() - began
began = time.perf_counter()
spool = Spool(folder / "spool", 1)
tracked += time.perf_counter() - began
call(spool.begin, 0)
call(spool.params, {f"setting.{index}": index for index in range(50)})
for step in range(1, steps + 1):
    until = time.perf_counter() + step_seconds
    while time.perf_counter() < until:
        sum(range(1000))
    call(spool.step, step, {f"train/metric-{index}": step / 3 for index in range(metrics)})
    if step % 20 == 0:
        call(spool.close_segment)
print(tracked, time.perf_counter() - start)
"""


def train(folder: Path, settings: TrackingSettings, steps: int, step_seconds: float) -> tuple[float, int]:
    """Return the share of the training thread's wall time in tracking calls, and the lines that the server lacks."""
    uploader = Uploader(folder, settings)
    uploader.start()
    command = [sys.executable, "-c", TRAINING, str(folder), str(steps), str(step_seconds), str(METRICS)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    tracked, wall = map(float, answer)
    return tracked / wall, uploader.stop(5.0).remaining


def forget(uri: str, run_id: str) -> None:
    """Let the run forget what was sent, so that everything is sent once more."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    for name in client.get_run(run_id).data.tags:
        if name.startswith(SENT):
            client.delete_tag(run_id, name)


def points_once(uri: str, run_id: str, steps: int) -> bool:
    """Whether the run has each point of the training exactly once."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    expected = [(step, step / 3) for step in range(1, steps + 1)]
    return all(
        sorted((point.step, point.value) for point in client.get_metric_history(run_id, f"train/metric-{index}"))
        == expected
        for index in range(METRICS)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    options = parser.parse_args()
    rounds, steps, step_seconds = (1, 60, 0.2) if options.quick else (3, 200, 0.2)
    shares: dict[str, list[float]] = {"up": [], "down": [], "silent": []}
    complete: list[bool] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        server = MlflowServer(folder / "server")
        gate = TcpGate(server.uri)
        for number in range(rounds):
            for kind in ("up", "down", *(("silent",) if number == 0 else ())):
                run_dir = folder / f"{kind}-{number}"
                settings = TrackingSettings(gate.uri, "outage", run_dir.name, run_dir.name, 1)
                if kind == "up":
                    server.start()
                    gate.open()
                elif kind == "silent":
                    gate.swallow()
                share, remaining = train(run_dir, settings, steps, step_seconds)
                assert kind == "up" or remaining >= steps, "something reached a server that was away"
                shares[kind].append(share)
                gate.close()
                server.kill()
        server.start()
        gate.open()
        for run_dir in sorted(folder.glob("*-*")):
            settings = TrackingSettings(gate.uri, "outage", run_dir.name, run_dir.name, 1)
            report = finish(run_dir, None, settings, "FINISHED", timeout=120)
            forget(server.uri, str(report.run_id))
            report = finish(run_dir, None, settings, "FINISHED", timeout=120)
            complete.append(report.remaining == 0 and points_once(server.uri, str(report.run_id), steps))
        gate.close()
        server.kill()
    down = max([*shares["down"], *shares["silent"]])
    figures = {
        **{f"share_{kind}": round(statistics.median(values), 6) for kind, values in shares.items()},
        "runs_with_every_point_once": f"{sum(complete)} of {len(complete)}",
        "points_per_run": steps * METRICS,
        "step_seconds": step_seconds,
    }
    print(
        json.dumps(
            {
                "name": "mlflow_outage",
                "figures": figures,
                "ratio": round(down, 6),
                "target": f"at most {TARGET:.1%} of the training thread's wall time with MLflow away; every point once",
                "holds": down <= TARGET and all(complete),
                "machine": f"{os.cpu_count()} x {platform.machine()}",
            }
        )
    )


if __name__ == "__main__":
    main()
