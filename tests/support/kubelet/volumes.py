"""The volumes of a pod as folders: emptyDir and PersistentVolumeClaim."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.support.kubelet.api import Api, ApiError, Object


class NotYetError(Exception):
    """A container cannot start yet: the waiting reason and message that a kubelet reports."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


TERMINATION_LOG = "/dev/termination-log"
OWN_FOLDERS = ("/run/unimrg", "/cache")
"""Folders that UniMRG's programs make in the container's own file system where no volume is mounted."""


def make_volumes(api: Api, pod: Object, folder: Path) -> dict[str, Path]:
    """Fill the folders of a pod's volumes and return them by volume name; raises NotYetError."""
    return {
        volume["name"]: _make(api, pod, volume, folder / volume["name"]) for volume in pod["spec"].get("volumes", [])
    }


def container_folders(container: Object, volumes: Mapping[str, Path], root: Path) -> dict[str, Path]:
    """Return where the paths of a container really lie: volumes by mountPath, the termination log, and below `root`
    (the container's own file system) the folders that programs use in every pod."""
    folders = {path: root / path.removeprefix("/") for path in OWN_FOLDERS}
    for mount in container.get("volumeMounts", []):
        folder = volumes[mount["name"]] / mount.get("subPath", "")
        if not folder.exists():
            folder.mkdir(parents=True)
        folders[mount["mountPath"].rstrip("/")] = folder
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


def _make(api: Api, pod: Object, volume: Object, folder: Path) -> Path:
    if claim := volume.get("persistentVolumeClaim"):
        return _claimed(api, pod["metadata"]["namespace"], claim["claimName"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _claimed(api: Api, namespace: str, name: str) -> Path:
    try:
        claim = api.request("GET", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
    except ApiError as error:
        if error.status == 404:
            raise NotYetError("ContainerCreating", f'persistentvolumeclaim "{name}" not found') from None
        raise
    if not (volume := claim["spec"].get("volumeName")):
        raise NotYetError("ContainerCreating", f'persistentvolumeclaim "{name}" is not bound')
    spec = api.request("GET", f"/api/v1/persistentvolumes/{volume}")["spec"]
    return Path(spec["hostPath" if "hostPath" in spec else "local"]["path"])
