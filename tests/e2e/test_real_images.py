"""The real images on a real kubelet: Helm installs the operator, and the S3 quick start runs to its end."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e.machine import say
from tests.e2e.real_cluster import RELEASE, SYSTEM, RealCluster, phase, redacted, restarts
from unimrg_api.exit_codes import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_the_quick_start_completes_on_real_images(real_cluster: RealCluster) -> None:
    begin = time.monotonic()
    real_cluster.submit(real_cluster.quick_start("happy"))
    job = real_cluster.wait_for("happy", lambda found: phase(found) == "Succeeded", "Succeeded", seconds=1500)
    say(f"quick start: {time.monotonic() - begin:.0f} s from submission to Complete")
    assert {item["type"]: item["status"] for item in job["status"]["conditions"]}["Complete"] == "True"
    assert restarts(job) == 0
    assert job["status"]["checkpoint"]["step"] == 20
    assert {item["name"] for item in job["status"]["benchmarks"]} >= {
        "eval/spatial/acc",
        "eval/heldout/depth/relative_change",
    }
    with real_cluster.store() as store:
        kept = store.list_objects_v2(Bucket="unimrg", Prefix="happy/")["Contents"]
    assert any("COMMITTED" in item["Key"] for item in kept)
    for pod in real_cluster.pods("happy", "train"):
        (container,) = pod["status"]["containerStatuses"]
        assert json.loads(container["state"]["terminated"]["message"])["exitCode"] == 0
        assert "train ended with 0" in real_cluster.kubectl(
            "logs", pod["metadata"]["name"], f"--namespace={real_cluster.namespace}"
        )
    for pod in real_cluster.get("pods", namespace=SYSTEM)["items"]:
        # On a machine so busy that the Lease is not renewed in time, the leader ends, as it should.
        ended = pod["status"]["containerStatuses"][0]["lastState"].get("terminated", {})
        assert ended.get("exitCode", ExitCode.UNAVAILABLE) == ExitCode.UNAVAILABLE
    logs = real_cluster.kubectl("logs", f"deployment/{RELEASE}", f"--namespace={SYSTEM}", "--tail=-1")
    assert redacted(logs)
