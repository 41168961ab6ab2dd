"""Events: ours about a job, for `kubectl describe`, and others' warnings about its children, to be shown in messages.

Best effort in both directions: nothing depends on an event, and rights that are missing only make it quiet.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from unimrg_api.job import API_VERSION, KIND
from unimrg_api.redaction import clean
from unimrg_operator.app.observe import dig, text_of, time_of
from unimrg_operator.backends.base import Resource
from unimrg_operator.core.decision import Notice
from unimrg_operator.core.observation import ObservedJob
from unimrg_operator.kube.client import Client, Object
from unimrg_operator.kube.errors import ApiError, Forbidden

logger = logging.getLogger(__name__)

CORE_EVENTS = Resource("", "v1", "events", "Event")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")

REPORTER = "training.unimrg.dev/operator"
NOTE_LIMIT = 1024
"""Characters that the API takes."""
REPEAT_SECONDS = 300.0
"""The same event about the same job goes out once in so long."""
FRESH_SECONDS = 20.0
"""A look at warnings is good for so long."""
FORBIDDEN_SECONDS = 600.0
"""After a refusal nobody is asked for so long."""
MOST_WARNINGS = 3
_WARNING_LIMIT = 300


class Publisher:
    """Writes our events."""

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock
        self._instance = socket.gethostname()[:128]
        self._lock = threading.Lock()
        self._sent: dict[tuple[str, str, str], float] = {}

    def publish(self, job: ObservedJob, notice: Notice) -> None:
        """Write an event about a job unless the same one was written a short while ago. Never fails."""
        now = self._clock()
        with self._lock:
            self._sent = {key: moment for key, moment in self._sent.items() if now - moment < REPEAT_SECONDS}
            key = (job.uid, notice.reason, notice.message)
            if key in self._sent:
                return
            self._sent[key] = now
        try:
            self._client.create(EVENTS, job.namespace, self._event(job, notice, now))
        except ApiError as error:
            logger.info("the event %s about %s/%s was not written: %s", notice.reason, job.namespace, job.name, error)

    def _event(self, job: ObservedJob, notice: Notice, now: float) -> Object:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{job.name}.{uuid.uuid4().hex}", "namespace": job.namespace},
            "eventTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": REPORTER,
            "reportingInstance": self._instance,
            "action": notice.reason,
            "reason": notice.reason,
            "type": notice.type,
            "note": clean(notice.message, NOTE_LIMIT),
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": job.namespace,
                "name": job.name,
                "uid": job.uid,
            },
        }


class Warnings:
    """Reads what others warn of about an object, on demand."""

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._not_before = 0.0

    def about(self, namespace: str, uid: str) -> tuple[str, ...]:
        """Return the newest warnings about the object with that uid, newest first; none if they cannot be read."""
        now = self._clock()
        with self._lock:
            self._known = {key: entry for key, entry in self._known.items() if now - entry[0] < FRESH_SECONDS}
            if uid in self._known:
                return self._known[uid][1]
            if now < self._not_before:
                return ()
        try:
            selector = f"involvedObject.uid={uid},type=Warning"
            page = self._client.list_page(CORE_EVENTS, namespace, field_selector=selector, limit=50)
        except ApiError as error:
            if isinstance(error, Forbidden):
                logger.info("warnings about children are not shown: %s", error)
            with self._lock:
                self._not_before = now + (FORBIDDEN_SECONDS if isinstance(error, Forbidden) else FRESH_SECONDS)
            return ()
        found = _newest([item for item in page.get("items") or [] if isinstance(item, dict)])
        with self._lock:
            self._known[uid] = (now, found)
        return found


def _newest(events: list[Object]) -> tuple[str, ...]:
    ordered = sorted(events, key=_moment, reverse=True)
    texts = [f"{text_of(event, 'reason')}: {text_of(event, 'message')}" for event in ordered]
    return tuple(clean(text, _WARNING_LIMIT) for text in dict.fromkeys(texts))[:MOST_WARNINGS]


def _moment(event: Object) -> float:
    """When an event was last seen: the field depends on who wrote it."""
    series = dig(event, "series", "lastObservedTime")
    times = [time_of(value) for value in (series, event.get("lastTimestamp"), event.get("eventTime"))]
    return max([moment for moment in times if moment is not None], default=0.0)
