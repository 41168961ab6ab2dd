"""Writes the files that follow from the models: the reference page and the custom resource.

`python -m unimrg_api.generate` is run in the repository's root.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unimrg_api.crd import crd_yaml
from unimrg_api.reference import reference

FILES: dict[str, Callable[[], str]] = {"docs/reference/job.md": reference, "manifests/crd.yaml": crd_yaml}
"""Every generated file, relative to the repository's root, and what writes its text."""

if __name__ == "__main__":
    for path, text in FILES.items():
        Path(path).write_text(text(), encoding="utf-8")
