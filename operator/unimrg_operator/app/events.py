"""Events: ours about a job, for `kubectl describe`, and others' warnings about its children, to be shown in messages.

Best effort in both directions: nothing depends on an event, and rights that are missing only make it quiet.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice

from unimrg_api.job import API_VERSION, KIND
from unimrg_api.redaction import clean
from unimrg_operator.backends.base import Resource
from unimrg_operator.backends.objects import dicts_of, dig, text_of, time_of
from unimrg_operator.core.decision import Event
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
FRESH_SECONDS = 10.0
"""A look at warnings is good for so long."""
FORBIDDEN_SECONDS = 600.0
"""After a refusal nobody is asked for so long."""
MOST_WARNINGS = 3
MOST_PAGES = 4
"""Of a namespace that warns without end only so much is read."""
_WARNING_LIMIT = 600
"""A full quota names every resource that it counts, three times."""


class Publisher:
    """Writes our events."""

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock
        self._instance = socket.gethostname()[:128]
        self._lock = threading.Lock()
        self._sent: dict[tuple[str, str, str], float] = {}

    def publish(self, job: ObservedJob, event: Event) -> None:
        """Write an event about a job unless the same one was written a short while ago. Never fails."""
        now = self._clock()
        with self._lock:
            self._sent = {key: moment for key, moment in self._sent.items() if now - moment < REPEAT_SECONDS}
            key = (job.uid, event.reason, event.message)
            if key in self._sent:
                return
            self._sent[key] = now
        try:
            self._client.create(EVENTS, job.namespace, self._event(job, event, now))
        except ApiError as error:
            logger.info("the event %s about %s/%s was not written: %s", event.reason, job.namespace, job.name, error)

    def _event(self, job: ObservedJob, event: Event, now: float) -> Object:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{job.name}.{uuid.uuid4().hex}", "namespace": job.namespace},
            "eventTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": REPORTER,
            "reportingInstance": self._instance,
            "action": event.reason,
            "reason": event.reason,
            "type": event.type,
            "note": clean(event.message, NOTE_LIMIT),
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": job.namespace,
                "name": job.name,
                "uid": job.uid,
            },
        }


class Warnings:
    """Reads what others warn of in a namespace, on demand and seldom: one look serves all objects in it."""

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, tuple[str, ...]]] = {}
        """By namespace: the newest warnings by the uid that they are about."""
        self._good_until: dict[str, float] = {}

    def about(self, namespace: str, uid: str) -> tuple[str, ...]:
        """Return the newest warnings about the object with that uid, newest first; none if they cannot be read."""
        with self._lock:  # one asks, and the others wait for the same answer
            now = self._clock()
            if now >= self._good_until.get(namespace, now):
                self._known[namespace], seconds = self._look(namespace)
                self._good_until[namespace] = now + seconds
            return self._known[namespace].get(uid, ())

    def _look(self, namespace: str) -> tuple[dict[str, tuple[str, ...]], float]:
        """Return what there is to say by uid, and for how many seconds that is good."""
        found: defaultdict[str, list[Object]] = defaultdict(list)
        try:
            for page in islice(self._client.pages(CORE_EVENTS, namespace, field_selector="type=Warning"), MOST_PAGES):
                for item in dicts_of(page, "items"):
                    found[text_of(dig(item, "involvedObject"), "uid")].append(dict(item))
        except Forbidden as error:
            logger.info("warnings about children are not shown: %s", error)
            return {}, FORBIDDEN_SECONDS
        except ApiError:
            return {}, FRESH_SECONDS
        return {uid: _newest(events) for uid, events in found.items()}, FRESH_SECONDS


def _newest(events: list[Object]) -> tuple[str, ...]:
    ordered = sorted(events, key=_moment, reverse=True)
    texts = [f"{text_of(event, 'reason')}: {text_of(event, 'message')}" for event in ordered]
    return tuple(clean(text, _WARNING_LIMIT) for text in dict.fromkeys(texts))[:MOST_WARNINGS]


def _moment(event: Object) -> float:
    """When an event was last seen: the field depends on who wrote it."""
    series = dig(event, "series", "lastObservedTime")
    times = [time_of(value) for value in (series, event.get("lastTimestamp"), event.get("eventTime"))]
    return max([moment for moment in times if moment is not None], default=0.0)
