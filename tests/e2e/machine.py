"""This machine as a node: images are built without a registry, and loaded into a cluster with a real kubelet.

    python -m tests.e2e.machine FOLDER     # until Ctrl-C; prints what to export for `pytest tests/e2e`

Needs root, the Debian packages of `PACKAGES`, and in UNIMRG_NODE a program that starts such a cluster
(docs/development.md).
Elsewhere docker and kind do all this.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("nftables", "buildah", "runc", "netavark", "uidmap", "mmdebstrap")
"""The Debian packages that this takes."""
IMAGES = {
    "unimrg-trainer": ("trainer/Dockerfile", {"TORCH": "cpu", "PACKAGES": ""}),
    "unimrg-operator": ("operator/Dockerfile", {}),
    "unimrg-e2e-s3": ("tests/e2e/s3.Dockerfile", {}),
}
"""Dockerfile and build arguments of every image; the tag is `TAG`."""
TAG = "e2e"
BASE = "localhost/unimrg-base:1"
_SETTINGS = '[containers]\ndefault_ulimits=[]\npids_limit=0\n[engine]\ncgroup_manager="cgroupfs"\nruntime="runc"\n'
_NO_NETWORK = (
    r"Temporary failure (in name resolution|resolving)|Failed to establish a new connection|Network is unreachable"
    r"|Could not connect to \S+|Connection timed out|ConnectTimeoutError|ReadTimeoutError"
)
_ROOT_SYSTEM = "python3,python3-venv,ca-certificates"


def missing() -> str:
    """Return why this machine cannot be a node, or an empty text."""
    if os.geteuid():
        return "a real kubelet needs root"
    if not Path(os.environ.get("UNIMRG_NODE", "")).is_file():
        return "UNIMRG_NODE names no program that starts a cluster with a node"
    if subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True).returncode:
        return "a real kubelet needs namespaces of its own, which root may not create here"
    absent = [name for name in ("nft", "buildah", "runc", "mmdebstrap") if not shutil.which(name)]
    return f"there is no {', '.join(absent)}: apt-get install {' '.join(PACKAGES)}" if absent else ""


class NetworkMissingError(Exception):
    """Packages for an image cannot be fetched: nothing of the sources is to blame."""


class Machine:
    """The cluster, in a folder that goes with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = folder / "cluster"
        self.kubeconfig = self.cluster / "kubeconfig"
        self._settings = folder / "containers.conf"

    def start(self) -> None:
        """Build, start and load; prints sizes and times.

        Raises NetworkMissingError, or RuntimeError with what a program said.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._settings.write_text(_SETTINGS)
        self._build_base()
        with ThreadPoolExecutor(max_workers=2) as pool:
            # The trainer's image takes longest and comes first; the rest is built and started beside it.
            archives = [pool.submit(self._build, name) for name in IMAGES]
            pool.submit(self._start_cluster).result()
            for archive in (future.result() for future in archives[::-1]):
                self._timed(f"load {archive.stem}", [*self._program("load"), str(archive)])
                archive.unlink()

    def stop(self) -> None:
        """End the cluster and everything on its node."""
        subprocess.run(self._program("down"), check=True)

    def _program(self, command: str) -> list[str]:
        return [os.environ["UNIMRG_NODE"], command, str(self.cluster)]

    def _start_cluster(self) -> None:
        """Start it; once again where a program did not get ready, as on a busy machine."""
        up = [*self._program("up"), "--with", "scheduler,training-operator,node"]
        try:
            self._timed("cluster", up)
        except RuntimeError as error:
            say(f"cluster: started again after {str(error).splitlines()[-1]}")
            self.stop()
            self._timed("cluster", up)

    def _build_base(self) -> None:
        """Debian with Python, from the machine's own package sources, in place of python:slim from a registry."""
        if BASE in self._buildah("images", "--format={{.Name}}:{{.Tag}}").splitlines():
            return
        tar = self.folder / "base.tar"
        sources = sorted(map(str, Path("/etc/apt").glob("sources.list.d/*.sources"))) or ["/etc/apt/sources.list"]
        bootstrap = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_ROOT_SYSTEM}", "bookworm", str(tar)]
        self._timed("base", [*bootstrap, *sources])
        container = self._buildah("from", "scratch")
        self._buildah("add", container, str(tar), "/")
        self._buildah("commit", "--quiet", "--rm", container, BASE)
        tar.unlink()

    def _build(self, name: str) -> Path:
        file, arguments = IMAGES[name]
        # This machine's certificates, pip settings and wheels are lent to the build, and are no part of the image.
        lent = [path for path in ("/etc/apt", "/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]
        flags = [f"--volume={path}:{path}:ro" for path in lent]
        if wheels := os.environ.get("PIP_FIND_LINKS"):
            flags += [f"--volume={wheels}:{wheels}:ro"]
            arguments = {**arguments, "PIP_FIND_LINKS": wheels} if name == "unimrg-trainer" else arguments
        flags += [f"--build-arg={key}={value}" for key, value in {"BASE": BASE, **arguments}.items()]
        tag = f"localhost/{name}:{TAG}"
        build = ["buildah", "build", "--isolation=chroot", "--network=host", *flags, "-t", tag, "-f", file, "."]
        self._timed(f"build {name}", build)
        archive = self.folder / f"{name}.tar"
        self._timed(
            f"write {name}", ["buildah", "push", tag, f"docker-archive:{archive}:docker.io/library/{name}:{TAG}"]
        )
        self._buildah("rmi", "--force", tag)
        base, *ours = layer_bytes(archive)
        say(f"{name}: {sum(ours) / 1e6:,.0f} MB above its base of {base / 1e6:,.0f} MB")
        return archive

    def _buildah(self, *arguments: str) -> str:
        done = subprocess.run(
            ["buildah", *arguments], env=self._environment(), check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def _timed(self, what: str, command: list[str]) -> None:
        """Run a command and say how long it took, and how much of that a CPU: the machine may have other work."""
        begin = time.monotonic()
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=self._environment(), stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                output.seek(0)
                text = output.read()
                if found := re.search(_NO_NETWORK, text):
                    raise NetworkMissingError(f"{what} needs a network: {found[0]}")
                raise RuntimeError(f"{what}: {' '.join(command)}\n{text[-6000:]}")
        say(f"{what}: {time.monotonic() - begin:.0f} s, of CPU {usage.ru_utime + usage.ru_stime:.0f} s")

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_CONF": str(self._settings)}


def layer_bytes(archive: Path) -> list[int]:
    """Return the sizes of an image's layers, its base's first."""
    with tarfile.open(archive) as tar:
        (image,) = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        return [tar.getmember(layer).size for layer in image["Layers"]]


FIGURES: list[str] = []
"""Sizes and times so far; pytest prints them at its end."""


def say(line: str) -> None:
    """Print a size or a time, and keep it."""
    FIGURES.append(line)
    print(line, flush=True)  # noqa: T201 - for a person


def main() -> None:
    """Start it, say how to use it, and end it with Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.machine", description=__doc__)
    parser.add_argument("folder", type=Path)
    machine = Machine(parser.parse_args().folder)
    if reason := missing():
        raise SystemExit(reason)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    try:
        machine.start()
        say(f"export UNIMRG_E2E_KUBECONFIG={machine.kubeconfig}")
        over.wait()
    finally:
        machine.stop()


if __name__ == "__main__":
    main()
