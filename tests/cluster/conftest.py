"""Fixtures of tests that look at pods."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.control_plane import ControlPlane
from tests.support.kubelet import ProcessKubelet
from tests.support.pods import Pods


@pytest.fixture
def pods(control_plane: ControlPlane, kubelet: ProcessKubelet, namespace: str) -> Pods:
    """Pods of the test's own namespace, which the kubelet runs."""
    return Pods(control_plane, namespace)


@pytest.fixture
def doomed_node(control_plane: ControlPlane, kubelet: ProcessKubelet, namespace: str) -> Iterator[str]:
    """A node of the test's own with two GPUs, that it may kill; nobody else has any."""
    name = f"doomed-{namespace.partition('-')[0]}"
    kubelet.add_node(name, gpus=2)
    yield name
    kubelet.kill_node(name)
    control_plane.kubectl("delete", "node", name)
