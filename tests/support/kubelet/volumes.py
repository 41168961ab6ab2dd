"""The volumes of a pod as folders, each an emptyDir."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.support.kubelet.api import Object

TERMINATION_LOG = "/dev/termination-log"
OWN_FOLDERS = ("/run/unimrg", "/cache")
"""Folders that UniMRG's programs make in the container's own file system where no volume is mounted."""


def make_volumes(pod: Object, folder: Path) -> dict[str, Path]:
    """Make the folders of a pod's volumes and return them by volume name."""
    folders = {volume["name"]: folder / volume["name"] for volume in pod["spec"].get("volumes", [])}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    return folders


def container_folders(container: Object, volumes: Mapping[str, Path], root: Path) -> dict[str, Path]:
    """Return where the paths of a container really lie: volumes by mountPath, the termination log, and below `root`
    (the container's own file system) the folders that programs use in every pod."""
    folders = {path: root / path.removeprefix("/") for path in OWN_FOLDERS}
    for mount in container.get("volumeMounts", []):
        folders[mount["mountPath"].rstrip("/")] = volumes[mount["name"]]
    log = container.get("terminationMessagePath", TERMINATION_LOG)
    if in_folder(log, folders) == log:
        folders[log] = root / "termination-log"
    return folders


def in_folder(value: str, folders: Mapping[str, Path]) -> str:
    """Return a path or file:// address below a known path as one below its folder, others as they are."""
    scheme = "file://" if value.startswith("file://") else ""
    path = value.removeprefix(scheme)
    covering = [known for known in folders if path == known or path.startswith(f"{known}/")]
    if not covering:
        return value
    known = max(covering, key=len)
    return f"{scheme}{folders[known]}{path[len(known) :]}"
