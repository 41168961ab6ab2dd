"""What Training Operator, JobSet and Kueue need around them where they run as plain processes: objects, certificates.

Their objects come from their releases' manifests, with webhooks that lead to this machine. Their Deployments, Services
and Secrets are replaced by what fits a process.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509

from tests.support.certificates import write_certificate

_KINDS = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding")
"""Kinds that are applied as they are."""
_FIXED_FOLDER = Path("/tmp/k8s-webhook-server/serving-certs")
"""Fixed in Training Operator's source, so all control planes of a machine share its certificate."""


@dataclass(frozen=True)
class Controller:
    """One of them, by the name of its program and of its manifests' folder."""

    name: str
    namespace: str
    service: str
    """Name of its webhook's Service."""
    secret: str
    """Name of the Secret in which it looks for its webhook's certificate."""

    def certificates(self, folder: Path) -> Path:
        """Return the folder with its webhook's certificate: below `folder`, unless its program knows one only."""
        target = _FIXED_FOLDER if self.name == "training-operator" else folder / f"{self.name}-certificates"
        if not (target / "tls.crt").exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=target.parent))
            # They make others where the authority, here the certificate itself, is not called so.
            names = map(x509.DNSName, (f"{self.name}-ca", f"{self.service}.{self.namespace}.svc"))
            for path in write_certificate(work, *names):
                shutil.copy(path, path.with_stem("ca"))
            try:
                work.rename(target)
            except OSError:  # somebody else was faster
                shutil.rmtree(work)
        return target

    def objects(self, manifests: Path, webhook_port: int, certificates: Path) -> list[dict[str, Any]]:
        """Return what to apply before it starts, in the order in which it has to be."""
        contents = {
            name: base64.b64encode((certificates / name).read_bytes()).decode()
            for name in ("ca.crt", "ca.key", "tls.crt", "tls.key")
        }
        found = []
        for item in _read(manifests / self.name):
            clients = []
            if item["kind"].endswith("WebhookConfiguration"):
                clients = [webhook["clientConfig"] for webhook in item["webhooks"]]
            elif item["kind"] == "CustomResourceDefinition":
                if (item["spec"].get("conversion") or {}).get("strategy") == "Webhook":
                    clients = [item["spec"]["conversion"]["webhook"]["clientConfig"]]
            elif item["kind"] not in _KINDS:
                continue
            for client in clients:
                client["service"]["port"], client["caBundle"] = webhook_port, contents["ca.crt"]
            found.append(item)
        # The API server calls an ExternalName's target under the TLS name that the service has on a cluster.
        service = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": 443}]}
        found.append({"apiVersion": "v1", "kind": "Service", "metadata": self._named(self.service), "spec": service})
        found.append({"apiVersion": "v1", "kind": "Secret", "metadata": self._named(self.secret), "data": contents})
        return found

    def configuration(self, webhook_port: int, probe_port: int, certificates: Path) -> str:
        """Return the configuration file of JobSet or Kueue, as JSON."""
        own: dict[str, Any] = {"apiVersion": "config.jobset.x-k8s.io/v1alpha1"}
        if self.name == "kueue":
            frameworks = ["batch/job", "jobset.x-k8s.io/jobset", "kubeflow.org/pytorchjob"]
            own = {
                "apiVersion": "config.kueue.x-k8s.io/v1beta2",
                "namespace": self.namespace,
                "integrations": {"frameworks": frameworks},
            }
        common = {
            "kind": "Configuration",
            "health": {"healthProbeBindAddress": f"127.0.0.1:{probe_port}"},
            "metrics": {"bindAddress": "0"},
            "webhook": {"port": webhook_port, "host": "127.0.0.1", "certDir": str(certificates)},
            "leaderElection": {"leaderElect": False},
        }
        return json.dumps({**common, **own})

    def _named(self, name: str) -> dict[str, str]:
        return {"name": name, "namespace": self.namespace}


TRAINING_OPERATOR = Controller("training-operator", "kubeflow", "training-operator", "training-operator-webhook-cert")
JOBSET = Controller("jobset", "jobset-system", "jobset-webhook-service", "jobset-webhook-server-cert")
KUEUE = Controller("kueue", "kueue-system", "kueue-webhook-service", "kueue-webhook-server-cert")


def _read(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.iterdir()):
        # JSON is YAML, too. The C loader, as the CRDs have more than ten thousand lines.
        for document in yaml.load_all(path.read_text(), yaml.CSafeLoader):
            if document:
                yield from document["items"] if document["kind"] == "List" else [document]
