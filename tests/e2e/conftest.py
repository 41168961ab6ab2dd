"""The session's cluster with a real kubelet: one that UNIMRG_E2E_KUBECONFIG names, or this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machine import FIGURES, Machine, NetworkMissingError, missing
from tests.e2e.real_cluster import RealCluster


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """This machine as a node, with the images built from the sources as they are. Skips where it cannot be one."""
    if reason := missing():
        pytest.skip(f"{reason}; or set UNIMRG_E2E_KUBECONFIG, see docs/development.md")
    machine = Machine(tmp_path_factory.mktemp("machine"))
    try:
        try:
            machine.start()
        except NetworkMissingError as error:
            pytest.skip(str(error))
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="session")
def real_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RealCluster:
    """A cluster with UniMRG installed by Helm, S3 and MLflow behind services, and a restricted namespace for jobs."""
    given = os.environ.get("UNIMRG_E2E_KUBECONFIG")
    kubeconfig = Path(given) if given else request.getfixturevalue("machine").kubeconfig
    cluster = RealCluster(kubeconfig, tmp_path_factory.mktemp("e2e"))
    cluster.install()
    return cluster


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print sizes and times, which pytest has captured."""
    for line in FIGURES:
        terminalreporter.write_line(line)
