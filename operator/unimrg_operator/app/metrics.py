"""What the operator counts about itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily


class Metrics:
    """One set of counters with a registry of its own. No label holds the name of a job."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.reconcile_seconds: Any = Histogram(
            "unimrg_reconcile_seconds",
            "Time that one look at one job took",
            buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60),
            registry=self._registry,
        )
        self.reconcile_errors: Any = Counter(
            "unimrg_reconcile_errors", "Looks at a job that failed", ["reason"], registry=self._registry
        )
        self.watch_restarts: Any = Counter(
            "unimrg_watch_restarts",
            "Lists and watches that ended otherwise than planned",
            ["kind", "cause"],
            registry=self._registry,
        )
        self.restarts: Any = Counter(
            "unimrg_restarts", "Attempts that are followed by another, by budget", ["cause"], registry=self._registry
        )

    def gauge(
        self,
        name: str,
        help_text: str,
        labels: list[str],
        values: Callable[[], Iterable[tuple[list[str], float]]],
    ) -> None:
        """Register a gauge that is looked up when somebody asks."""
        self._registry.register(_Asked(name, help_text, labels, values))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        content: bytes = generate_latest(self._registry)
        return content


class _Asked:
    def __init__(
        self,
        name: str,
        help_text: str,
        labels: list[str],
        values: Callable[[], Iterable[tuple[list[str], float]]],
    ) -> None:
        self._name, self._help, self._labels, self._values = name, help_text, labels, values

    def describe(self) -> Iterable[Any]:
        return [GaugeMetricFamily(self._name, self._help, labels=self._labels)]

    def collect(self) -> Iterable[Any]:
        family = GaugeMetricFamily(self._name, self._help, labels=self._labels)
        for labels, value in self._values():
            family.add_metric(labels, value)
        yield family
