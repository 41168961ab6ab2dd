"""Kubernetes' models as the official client has them, by name: `k8s.V1Pod(...)`. All of them share one configuration.

Left to itself each makes a configuration of its own, which is two thirds of the time to render a child.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from kubernetes import client

_CONFIGURATION = client.Configuration()


def __getattr__(name: str) -> Any:
    if not name.startswith("V1"):
        raise AttributeError(name)
    model = globals()[name] = partial(getattr(client, name), local_vars_configuration=_CONFIGURATION)
    return model
