"""A kubelet for tests that runs containers as plain processes of this machine: no root, no images, no namespaces.

It registers nodes, keeps their leases, runs the pods that are bound to them and reports what a kubelet reports. A test
uses `ProcessKubelet`; the kubelet itself is a process of its own (`python -m tests.support.kubelet`), so that a busy
test delays no lease. It plays what our pods use, and not: init containers, restarts, config maps, probes, life-cycle
hooks, sidecars, resource limits, users, pod deadlines, events, DNS, images (every pod has the programs of this machine)
and mount namespaces (see `environment`).
"""

from tests.support.kubelet.handle import ProcessKubelet

__all__ = ["ProcessKubelet"]
