"""`python -m tests.support.playground`: the cluster of the tests, to play with until Ctrl-C.

Control plane, two nodes, S3, MLflow and the operator run on loopback; pods are processes of this machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
from pathlib import Path

import pytest

from tests.support.cluster import S3_SECRET, Cluster
from tests.support.control_plane import ControlPlane, find_assets
from tests.support.kubelet import ProcessKubelet
from tests.support.mlflow_server import MlflowServer
from tests.support.s3_server import S3Server

NAMESPACE = "research"
BUCKET = "unimrg"
_EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart-s3.yaml"
_BASE = _EXAMPLE.parent / "tiny_base" / "harmon-tiny.safetensors"


def main() -> None:
    """Start everything, say how to use it, and end it with Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.playground", description=__doc__)
    parser.add_argument("--folder", type=Path, help="for logs and data (default: a new one under /tmp, which stays)")
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp(prefix="unimrg-playground-"))
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    try:
        assets = find_assets()
    except pytest.skip.Exception as reason:
        raise SystemExit(str(reason)) from None
    control_plane = ControlPlane(folder / "control-plane", assets)
    s3, mlflow = S3Server(folder / "s3"), MlflowServer(folder / "mlflow")
    kubelet = ProcessKubelet(control_plane)
    cluster = Cluster(control_plane, kubelet, s3, mlflow, NAMESPACE, folder)
    try:
        for part in (control_plane, kubelet, s3, mlflow):
            part.start()
        s3.bucket(BUCKET)
        s3.client().upload_file(_BASE, BUCKET, _BASE.name)
        control_plane.create_namespace(NAMESPACE)
        cluster.install()
        cluster.start_operator()
        example = folder / "job.yaml"
        text = _EXAMPLE.read_text()
        text = text.replace("http://s3.unimrg.svc:8333", s3.endpoint).replace(
            "http://mlflow.unimrg.svc:5000", mlflow.uri
        )
        example.write_text(text)
        say(
            f"export KUBECONFIG={control_plane.kubeconfig} PATH={assets}:$PATH",
            f"export AWS_ACCESS_KEY_ID={s3.access_key} AWS_SECRET_ACCESS_KEY={s3.secret_key}",
            f"export AWS_ENDPOINT_URL={s3.endpoint}",
            f"# the keys are also in the secret {S3_SECRET} of namespace {NAMESPACE}; the bucket is {BUCKET}",
            f"# MLflow: {mlflow.uri}",
            f"# logs: {folder}",
            f"unimrg submit {example} -n {NAMESPACE}",
            "# pods are processes of this machine: the names of images are ignored",
            "# Ctrl-C here ends it all",
        )
        over.wait()
    finally:
        cluster.kill_operator()
        kubelet.stop()
        mlflow.kill()
        s3.kill()
        control_plane.stop()


def say(*lines: str) -> None:
    os.write(1, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
