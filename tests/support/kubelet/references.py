"""What pods refer to: fields of their own, secrets and config maps."""

from __future__ import annotations

import base64
import re

from tests.support.kubelet.api import Api, ApiError, Object


class NotYetError(Exception):
    """A container cannot start yet: the waiting reason and message that a kubelet reports."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def field(pod: Object, path: str) -> str:
    """Return a field of the pod as the downward API names it; raises NotYetError for one that nobody knows."""
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(pod["metadata"].get(found[1], {}).get(found[2], ""))
    values = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"]["nodeName"],
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", ""),
        "status.podIP": pod["status"]["podIP"],
        "status.podIPs": pod["status"]["podIP"],
        "status.hostIP": pod["status"]["hostIP"],
    }
    if path not in values:
        raise NotYetError("CreateContainerConfigError", f"unsupported fieldPath: {path}")
    return str(values[path])


def contents(api: Api, namespace: str, kind: str, name: str, optional: bool) -> dict[str, bytes]:
    """Return the data of a `secret` or `configMap`; raises NotYetError if there is none and it is not optional."""
    try:
        found = api.request("GET", f"/api/v1/namespaces/{namespace}/{kind.lower()}s/{name}")
    except ApiError as error:
        if error.status != 404:
            raise
        if optional:
            return {}
        raise NotYetError("CreateContainerConfigError", f'{kind.lower()} "{name}" not found') from None
    data: dict[str, str] = found.get("data", {})
    if kind == "secret":
        return {key: base64.b64decode(value) for key, value in data.items()}
    binary: dict[str, str] = found.get("binaryData", {})
    decoded = {key: base64.b64decode(value) for key, value in binary.items()}
    return decoded | {key: value.encode() for key, value in data.items()}
