"""Fixtures of tests that look at pods."""

from __future__ import annotations

import pytest

from tests.support.control_plane import ControlPlane
from tests.support.kubelet import ProcessKubelet
from tests.support.pods import Pods


@pytest.fixture
def pods(control_plane: ControlPlane, kubelet: ProcessKubelet, namespace: str) -> Pods:
    """Pods of the test's own namespace, which the kubelet runs."""
    return Pods(control_plane, namespace)
