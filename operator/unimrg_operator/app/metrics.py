"""What the operator counts about itself and its jobs, for Prometheus; docs/reference/operator.md has the list."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_REQUEST_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.5, 2, 10, 60)
_START_BUCKETS = (5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_JOB_BUCKETS = (60, 600, 3600, 6 * 3600, 86400, 3 * 86400, 7 * 86400, 30 * 86400)

JOB_LABELS = ("namespace", "model", "method")
"""Labels of what is counted per job: few values each, and never a job's name."""


class Metrics:
    """One set of metrics with a registry of its own. No label holds the name of a job."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        # --- jobs
        self.jobs: Any = self._gauge("unimrg_jobs", "Jobs by phase", "phase")
        self.queue_seconds: Any = self._histogram(
            "unimrg_job_queue_seconds", "Time from a job's start of waiting in a queue to its admission", _JOB_BUCKETS
        )
        self.start_seconds: Any = self._histogram(
            "unimrg_job_start_seconds", "Time from an attempt's creation until all its pods run", _START_BUCKETS
        )
        self.duration_seconds: Any = self._histogram(
            "unimrg_job_duration_seconds", "Time from a job's start to its end", _JOB_BUCKETS, "result"
        )
        self.restarts: Any = self._counter(
            "unimrg_restarts", "Attempts that are followed by another, by the budget that pays for it", "cause"
        )
        self.gpu_seconds: Any = self._counter(
            "unimrg_gpu_seconds", "Seconds of GPUs that jobs held, by what came of them", *JOB_LABELS, "state"
        )
        self.excluded_nodes: Any = self._gauge("unimrg_excluded_nodes", "Nodes that live jobs stay away from")
        # --- the operator
        self.reconcile_seconds: Any = Histogram(
            "unimrg_reconcile_seconds",
            "Time that one look at one job took",
            buckets=_REQUEST_BUCKETS,
            registry=self._registry,
        )
        self.reconcile_errors: Any = self._counter("unimrg_reconcile_errors", "Looks at a job that failed", "reason")
        self.waiting_jobs: Any = self._gauge("unimrg_workqueue_depth", "Jobs that wait for a worker")
        self.waiting_age: Any = self._gauge(
            "unimrg_workqueue_age_seconds", "How long the job has waited for a worker that waits longest"
        )
        self.watch_restarts: Any = self._counter(
            "unimrg_watch_restarts", "Lists and watches that ended otherwise than planned", "kind", "cause"
        )
        self.cache_synced: Any = self._gauge(
            "unimrg_cache_synced", "1 where the cache is in step with the API server", "kind", "namespace"
        )
        self.leader: Any = self._gauge("unimrg_leader", "1 where this replica acts, or no leader is elected")

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        content: bytes = generate_latest(self._registry)
        return content

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self._registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(name, help_text, labels, registry=self._registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[int, ...], *labels: str) -> Histogram:
        return Histogram(name, help_text, (*JOB_LABELS, *labels), buckets=buckets, registry=self._registry)
