"""What Training Operator needs around it where it runs as a plain process: its objects, its webhook's certificate."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509

from tests.support.certificates import write_certificate

NAMESPACE = "kubeflow"
SERVICE = "training-operator"
_SECRET = "training-operator-webhook-cert"
_KINDS = ("Namespace", "CustomResourceDefinition", "ServiceAccount", "ClusterRole", "ClusterRoleBinding")
"""Kinds that are applied as they are; its Deployment, Service and Secret are replaced by what fits a process."""
_CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")
"""Fixed in Training Operator's source, so all control planes of a machine share one certificate."""


def objects(manifests: Path, webhook_port: int) -> list[dict[str, Any]]:
    """Return what to apply before it starts: from its release's manifests, with webhooks that lead to this machine."""
    _write_certificates()
    files = ("ca.crt", "ca.key", "tls.crt", "tls.key")
    contents = {name: base64.b64encode((_CERTIFICATES / name).read_bytes()).decode() for name in files}
    result = []
    for item in _read(manifests):
        if item["kind"] in _KINDS:
            result.append(item)
        elif item["kind"] == "ValidatingWebhookConfiguration":
            for webhook in item["webhooks"]:
                webhook["clientConfig"]["service"]["port"] = webhook_port
                webhook["clientConfig"]["caBundle"] = contents["ca.crt"]
            result.append(item)
    # The API server calls an ExternalName's target under the TLS name that the service has on a cluster.
    service = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": 443}]}
    result.append({"apiVersion": "v1", "kind": "Service", "metadata": _named(SERVICE), "spec": service})
    result.append({"apiVersion": "v1", "kind": "Secret", "metadata": _named(_SECRET), "data": contents})
    return result


def _write_certificates() -> None:
    """Write the files unless they are there; safe if several control planes do so at once."""
    if (_CERTIFICATES / "tls.crt").exists():
        return
    _CERTIFICATES.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=_CERTIFICATES.parent))
    # Training Operator makes others where the authority, here the certificate itself, is not called so.
    names = map(x509.DNSName, ("training-operator-ca", f"{SERVICE}.{NAMESPACE}.svc"))
    for path in write_certificate(work, *names):
        shutil.copy(path, path.with_stem("ca"))
    try:
        work.rename(_CERTIFICATES)
    except OSError:  # somebody else was faster
        shutil.rmtree(work)


def _read(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.iterdir()):
        # JSON is YAML, too. The C loader, as the CRDs have more than ten thousand lines.
        for document in yaml.load_all(path.read_text(), yaml.CSafeLoader):
            if document:
                yield from document["items"] if document["kind"] == "List" else [document]


def _named(name: str) -> dict[str, str]:
    return {"name": name, "namespace": NAMESPACE}
