"""Helm and promtool, which lie beside the control plane's programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.control_plane import ControlPlane, find_assets
from tools.manifests import CHART

Object = dict[str, Any]
Render = Callable[..., list[Object]]


def find_program(name: str) -> str:
    """Return a program's path; skips the test where there is none, fails it with UNIMRG_REQUIRE_CLUSTER=1."""
    folder = os.environ.get("KUBEBUILDER_ASSETS", "")
    if found := shutil.which(name, path=f"{folder}{os.pathsep}{os.environ['PATH']}"):
        return found
    message = f"there is no {name}: put it into KUBEBUILDER_ASSETS or on the PATH, see docs/development.md"
    if os.environ.get("UNIMRG_REQUIRE_CLUSTER") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="session")
def helm() -> str:
    """The program."""
    return find_program("helm")


@pytest.fixture(scope="session")
def promtool() -> str:
    """The program."""
    return find_program("promtool")


@pytest.fixture(scope="session")
def render(helm: str) -> Render:
    """Render the chart with flags of `helm template`; raises CalledProcessError."""

    def rendered(*flags: str, namespace: str = "unimrg-system") -> list[Object]:
        command = [helm, "template", "unimrg-operator", str(CHART), f"--namespace={namespace}", *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [item for item in yaml.load_all(done.stdout, yaml.CSafeLoader) if item]

    return rendered


def values_file(folder: Path, values: Object) -> str:
    """Write values into a file and return the flag that names it."""
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    return f"--values={path}"


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of their own: elsewhere in the session the definition is not Helm's."""
    plane = ControlPlane(tmp_path_factory.mktemp("chart"), find_assets())
    plane.start()
    plane.create_namespace("research")
    plane.create_namespace("vision")
    yield plane
    plane.stop()
