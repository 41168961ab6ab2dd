"""What the operator counts about itself, for Prometheus."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """One set of counters with a registry of its own. No label holds the name of a job."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.reconcile_seconds: Any = Histogram(
            "unimrg_reconcile_seconds",
            "Time that one look at one job took",
            buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60),
            registry=registry,
        )
        self.reconcile_errors: Any = self._counter("unimrg_reconcile_errors", "Looks at a job that failed", "reason")
        self.watch_restarts: Any = self._counter(
            "unimrg_watch_restarts", "Lists and watches that ended otherwise than planned", "kind", "cause"
        )
        self.restarts: Any = self._counter(
            "unimrg_restarts", "Attempts that are followed by another, by budget", "cause"
        )
        self.waiting_jobs: Any = Gauge("unimrg_workqueue_depth", "Jobs that wait for a worker", registry=registry)
        self.leader: Any = Gauge(
            "unimrg_leader", "1 where this replica acts, or no leader is elected", registry=registry
        )
        self.jobs: Any = Gauge("unimrg_jobs", "Jobs by phase", ["phase"], registry=registry)
        self.cache_synced: Any = Gauge(
            "unimrg_cache_synced",
            "1 where the cache is in step with the API server",
            ["kind", "namespace"],
            registry=registry,
        )

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        content: bytes = generate_latest(self._registry)
        return content

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self._registry)
