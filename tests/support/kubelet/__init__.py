"""A kubelet for tests that runs containers as plain processes of this machine: no root, no images, no namespaces.

It registers nodes, keeps their leases, runs the pods that are bound to them and reports what a kubelet reports. It
plays what our pods use, and not: init containers, restarts, volumes but emptyDir, config maps, probes, life-cycle
hooks, sidecars, resource limits, users, pod deadlines, events, DNS, images (every pod has the programs of this machine)
and mount namespaces (see `environment`).
"""

from tests.support.kubelet.kubelet import ProcessKubelet

__all__ = ["ProcessKubelet"]
