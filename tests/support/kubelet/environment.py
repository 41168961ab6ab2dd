"""The variables that a container finds when it starts.

There are no mount namespaces: a volume is a folder somewhere else, and a variable whose value is or lies below a
mountPath (also as file:// address) has the folder's path instead. Programs that take every path from a variable do not
notice. There is no DNS either: a literal value that is the name of a pod's headless service, or of a pod in this one's
subdomain, becomes that pod's address.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from tests.support.kubelet.api import Api, ApiError, Object
from tests.support.kubelet.volumes import in_folder

PATH_VARIABLES = {
    "UNIMRG_TERMINATION_LOG": "/dev/termination-log",
    "UNIMRG_RUN_DIR": "/run/unimrg",
    "UNIMRG_CACHE": "/cache",
    "TMPDIR": "/tmp",
}
"""Paths that programs use in a pod when no variable is set: here they need one."""
_SERVICE = re.compile(r"([a-z0-9](?:[-a-z0-9]*[a-z0-9])?)(?:\.([-a-z0-9]+)(?:\.svc(?:\.cluster\.local)?)?)?(:\d+)?")


class NotYetError(Exception):
    """A container cannot start yet: the waiting reason and message that a kubelet reports."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def container_environment(
    api: Api, pod: Object, container: Object, image: Mapping[str, str], folders: Mapping[str, Path], root: Path
) -> dict[str, str]:
    """Return the variables of a container; raises NotYetError.

    `image` is what the image sets, `folders` says where paths lie (`volumes.container_folders`), `root` is the
    container's own file system.
    """
    namespace = pod["metadata"]["namespace"]
    values: dict[str, str] = {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "HOSTNAME": pod["metadata"]["name"],
    }
    addresses = _Addresses(api, namespace, pod["spec"].get("subdomain"))
    for variable in container.get("env", []):
        if source := variable.get("valueFrom"):
            value = _referred(api, pod, source)
        else:
            value = addresses.replace(expanded(variable.get("value", ""), values))
        if value is not None:
            values[variable["name"]] = value
    defaults = {name: in_folder(path, folders) for name, path in PATH_VARIABLES.items()}
    if "/tmp" not in folders:
        defaults["TMPDIR"] = str(root / "tmp")
    return {**image, **defaults, **{name: in_folder(value, folders) for name, value in values.items()}}


def expanded(text: str, values: Mapping[str, str]) -> str:
    """Return the text with $(NAME) replaced where the name is known; $$ stands for $."""
    return re.sub(r"\$(\$|\((\w+)\))", lambda found: "$" if found[1] == "$" else values.get(found[2], found[0]), text)


def _referred(api: Api, pod: Object, source: Object) -> str | None:
    """Return what a field of the pod or a key of a secret holds; None for an optional key that is not there."""
    if reference := source.get("fieldRef"):
        return _field(pod, reference["fieldPath"])
    reference, namespace = source["secretKeyRef"], pod["metadata"]["namespace"]
    name, key = reference["name"], reference["key"]
    try:
        data = api.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}").get("data", {})
    except ApiError as error:
        if error.status != 404:
            raise
        data = None
    if data and key in data:
        return base64.b64decode(data[key]).decode()
    if reference.get("optional", False):
        return None
    problem = f'secret "{name}" not found' if data is None else f"couldn't find key {key} in Secret {namespace}/{name}"
    raise NotYetError("CreateContainerConfigError", problem)


def _field(pod: Object, path: str) -> str:
    """Return a field of the pod as the downward API names it; raises NotYetError for one that is not played here."""
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(pod["metadata"].get(found[1], {}).get(found[2], ""))
    values = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"]["nodeName"],
        "status.podIP": pod["status"]["podIP"],
    }
    if path not in values:
        raise NotYetError("CreateContainerConfigError", f"unsupported fieldPath: {path}")
    return str(values[path])


class _Addresses:
    """Names of headless services and of pods in a subdomain in values, replaced by the pod's address."""

    def __init__(self, api: Api, namespace: str, subdomain: str | None) -> None:
        self._api = api
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._services = f"/api/v1/namespaces/{namespace}/services"
        self._namespace = namespace
        self._subdomain = subdomain
        # Headless services of worker groups have a pod's name; anything else that looks like a name is just a word.
        self._names = {item["metadata"]["name"] for item in api.request("GET", self._pods)["items"]}

    def replace(self, value: str) -> str:
        found = _SERVICE.fullmatch(value)
        if found and found[2] is not None and found[2] == self._subdomain:
            return self._of_host(found[1]) + (found[3] or "")
        if not found or found[1] not in self._names or found[2] not in (None, self._namespace):
            return value
        name, port = found[1], found[3] or ""
        try:
            service = self._api.request("GET", f"{self._services}/{name}")
        except ApiError as error:
            if error.status == 404:
                raise NotYetError("ContainerCreating", f'service "{name}" not found') from None
            raise
        selector = quote(",".join(f"{label}={text}" for label, text in service["spec"]["selector"].items()))
        pods = self._api.request("GET", f"{self._pods}?labelSelector={selector}")["items"]
        for pod in pods:
            if address := pod["status"].get("podIP"):
                return f"{address}{port}"
        raise NotYetError("ContainerCreating", f'service "{name}" has no pod with an address')

    def _of_host(self, hostname: str) -> str:
        for pod in self._api.request("GET", self._pods)["items"]:
            named = (pod["spec"].get("hostname"), pod["spec"].get("subdomain")) == (hostname, self._subdomain)
            if named and (address := pod["status"].get("podIP")):
                return str(address)
        raise NotYetError("ContainerCreating", f'no pod of the name "{hostname}.{self._subdomain}" has an address')
