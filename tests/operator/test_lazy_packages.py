"""The official clients loaded lazily: all that they offer is there, and what nobody asked for is not imported."""

from __future__ import annotations

import subprocess
import sys

from unimrg_operator.lazy_packages import PACKAGES

NAMES_AS_THEY_ARE = """
import importlib, json, sys
print(json.dumps({package: sorted(vars(importlib.import_module(package))) for package in sys.argv[1:]}))
"""
NAMES_LOADED_LAZILY = """
import importlib, json, sys
import unimrg_operator
wanted = json.load(sys.stdin)
for package, names in wanted.items():
    module = importlib.import_module(package)
    for name in reversed(names):
        assert getattr(module, name, module) is not module or name.startswith("__"), (package, name)
try:
    importlib.import_module("kubernetes.client").Nonsense
except AttributeError as error:
    assert "kubernetes.client" in str(error)
else:
    raise AssertionError("a name that there is not")
"""
OPERATOR = """
import sys
import unimrg_operator.app.main
from unimrg_operator.backends.profile import SiteProfile
from unimrg_operator.backends.registry import SiteBackends
SiteBackends(SiteProfile())
print(*sys.modules)
"""


def run(program: str, *arguments: str, stdin: str = "") -> str:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60.0)
    assert not done.returncode, done.stderr
    return done.stdout


def test_every_name_of_the_official_clients_is_found() -> None:
    run(NAMES_LOADED_LAZILY, stdin=run(NAMES_AS_THEY_ARE, *sorted(PACKAGES)))


def test_the_operator_imports_nothing_that_it_does_not_use() -> None:
    modules = run(OPERATOR).split()
    for name in ("kubernetes.client.api", "kubernetes.config.kube_config", "requests_oauthlib", "google.auth", "torch"):
        assert name not in modules
    assert len([name for name in modules if name.startswith("kubernetes.client.models.")]) <= 40
