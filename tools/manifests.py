"""The plain manifests for kubectl and Kustomize: what the Helm chart renders, in the files of manifests/.

One source, the chart; this needs Helm, and whoever applies the manifests does not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "unimrg-operator"
SYSTEM, JOBS = "unimrg-system", "unimrg"

_VALUES = f"watchNamespaces={{{JOBS}}}"
_FROM_CHART = "# Written by `python -m tools.generate` from charts/unimrg-operator; do not edit.\n"
_NAMESPACE = f"""apiVersion: v1
kind: Namespace
metadata:
  name: {SYSTEM}
  labels:
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/warn: restricted
---
"""


def find_helm() -> str | None:
    """Return the program, or None."""
    return shutil.which("helm", path=f"{os.environ.get('KUBEBUILDER_ASSETS', '')}{os.pathsep}{os.environ['PATH']}")


def manifests(helm: str) -> dict[str, str]:
    """Return the generated files of manifests/, by path relative to the repository's root."""
    return {
        "manifests/operator.yaml": _FROM_CHART + _NAMESPACE + _rendered(helm, "deployment", "leader-role"),
        "manifests/profile.yaml": _FROM_CHART + _rendered(helm, "profile"),
        "manifests/user-roles.yaml": _FROM_CHART + _rendered(helm, "user-roles"),
        # Of whatever namespace it is applied to.
        "manifests/namespace/role.yaml": _FROM_CHART + _rendered(helm, "role").replace(f"  namespace: {JOBS}\n", ""),
    }


def _rendered(helm: str, *templates: str) -> str:
    """Return what some templates give, without Helm's own marks."""
    done = subprocess.run(
        [helm, "template", "unimrg-operator", str(CHART), f"--namespace={SYSTEM}", f"--set={_VALUES}"]
        + [f"--show-only=templates/{name}.yaml" for name in templates],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [
        line
        for line in done.stdout.splitlines()
        if not re.match(r"# Source: |\s+app\.kubernetes\.io/(managed-by: Helm|version: )|\s*$", line)
    ]
    return "\n".join(lines).removeprefix("---\n") + "\n"
