"""Keeps a cache equal to what the API server holds of one kind in one namespace: list, then watch, for ever.

Whatever casts doubt on the cache (an error in the stream, a line that cannot be read, a version that is too old)
leads to a new list; a stream that merely ends is taken up again where it ended.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable

from unimrg_api.texts import backoff
from unimrg_operator.kube.cache import Cache, Change, Entry, is_newer, name_of, version_of
from unimrg_operator.kube.client import Client, Object, Resource, Watch
from unimrg_operator.kube.errors import ApiError, Forbidden, Gone, NotFound, Unauthorized, Unavailable, error_of_status

logger = logging.getLogger(__name__)

WATCH_SECONDS = 290.0
"""How long a watch lasts: below the five minutes after which load balancers like to cut."""
JITTER = 0.1
"""Durations vary by so much, so that not everybody comes back at once."""
RELIST_SECONDS = 2700.0
"""A new list as a safety net."""
BACK_OFF_SECONDS = 1.0
MOST_BACK_OFF_SECONDS = 15.0
LIVED_SECONDS = 5.0
"""A watch that lasted so long was a good one, even if nothing happened."""
FUTILE_WATCHES = 3
"""After so many watches in a row that could not be opened the cache is too old to go without a list."""


class Reflector:
    """One kind in one namespace; an empty one: in the whole cluster.

    `run` is its life; everything else may be called from other threads.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        namespace: str,
        changed: Callable[[Change], None],
        *,
        label_selector: str = "",
        prune: Callable[[Object], Object] = lambda item: item,
        index: Callable[[Object], str] = lambda _: "",
        optional: bool = False,
        restarted: Callable[[str], None] = lambda _: None,
        watch_seconds: float = WATCH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """`changed` is called with every change, after the cache has it. `prune` returns what of an object is kept.

        `optional`: the kind comes with another operator, so that where it is not served, or not to us, there is
        nothing of it.
        `restarted` is called with the name of the error each time a list or watch ended otherwise than planned.
        """
        self.resource = resource
        self.namespace = namespace
        self.cache = Cache(index)
        self.missing = False
        """The API server did not know the kind when it was last asked."""
        self.hidden = False
        """It did not let us list the kind when it was last asked."""
        self._client = client
        self._changed = changed
        self._label_selector = label_selector
        self._prune = prune
        self._optional = optional
        self._restarted = restarted
        self._watch_seconds = watch_seconds
        self._clock = clock
        self._chance = chance
        self._stop = threading.Event()
        self._sleep = self._stop.wait if sleep is None else sleep
        self.reason = "not listed yet"
        """Why the cache is not in step with the API server; empty if it is."""
        self._futile_watches = 0
        self._failures = 0
        self._version = ""
        """How far the cache is; empty: nobody knows."""
        self._relist_at = 0.0
        self._stream: Watch | None = None

    @property
    def synced(self) -> bool:
        """Whether the last list succeeded and a watch is open, or ended as it should."""
        return not self.reason

    @property
    def absent(self) -> bool:
        """Whether it is of an optional kind that is not served, or not to us."""
        return self._optional and (self.missing or self.hidden)

    @property
    def usable(self) -> bool:
        """Whether the cache may be decided on: it is in step, or of an optional kind that is not there.

        A cache that is behind may lack what was just made and show what is long gone.
        """
        return self.synced or self.absent

    def run(self) -> None:
        """List and watch until `stop`."""
        while not self._stop.is_set():
            started = self._clock()
            try:
                if not self._version or started >= self._relist_at:
                    self._list()
                    self._relist_at = started + self._jittered(RELIST_SECONDS)
                self._follow()
                if self._clock() - started < LIVED_SECONDS:
                    raise Unavailable(0, "Ended", "the watch ended at once")
                self._failures = 0
            except ApiError as error:
                self._back_off(error, error.retry_after)
            except Exception as error:  # as a rule something that cannot be read: what it was is not known
                logger.exception("%s: unexpected error", self)
                self._version = ""
                self._back_off(error)

    def stop(self) -> None:
        """Make `run` return soon."""
        self._stop.set()
        stream = self._stream
        if stream is not None:
            stream.interrupt()

    def admit(self, item: Object) -> None:
        """Take in an object that was just created, so that it is known before the watch brings it.

        Not where the watch is past it: it is cached, or was deleted already. Nor during a list, which may have begun
        before it was created, and would make it vanish again.
        """
        kept = self._prune(item)
        if is_newer(kept, self._version) and self.cache.add(kept):
            self._changed((None, kept))

    def __str__(self) -> str:
        group = f".{self.resource.group}" if self.resource.group else ""
        return f"{self.resource.plural}{group} in {self.namespace or 'the cluster'}"

    def _list(self) -> None:
        self._version = version = ""
        entries: list[Entry] = []
        try:
            for page in self._client.pages(self.resource, self.namespace, label_selector=self._label_selector):
                entries += [self.cache.pack(self._prune(item)) for item in page.get("items") or []]
                version = version_of(page)
        except ApiError as error:
            # What was cached stays: an API server that is starting may not know its kinds yet.
            self.missing = self.missing or isinstance(error, NotFound)
            self.hidden = self.hidden or isinstance(error, Forbidden)
            unknown = f"{self} are not served: is their CustomResourceDefinition installed?"
            self._report(unknown if isinstance(error, NotFound) else f"{self} cannot be listed: {error}")
            raise
        changes = self.cache.replace(entries)
        self.missing, self.hidden = False, False
        self._version = version
        for change in changes:
            self._changed(change)

    def _follow(self) -> None:
        """Watch from where the cache is until the stream ends."""
        try:
            stream = self._client.watch(
                self.resource,
                self.namespace,
                resource_version=self._version,
                seconds=max(int(self._jittered(self._watch_seconds)), 1),
                label_selector=self._label_selector,
            )
        except ApiError as error:
            # Nothing was lost yet, so the same is asked for again; but where that is no use, lists have to do.
            self._futile_watches += 1
            no_use = isinstance(error, Unauthorized | Forbidden | NotFound | Gone)
            if no_use or self._futile_watches >= FUTILE_WATCHES:
                self._version = ""
            self._report(f"{self} cannot be watched: {error}")
            raise
        self.reason, self._futile_watches = "", 0
        self._stream = stream
        try:
            if self._stop.is_set():
                return
            for line in stream:
                self._take_in(line)
                self._failures = 0
        finally:
            self._stream = None
            stream.close()

    def _take_in(self, line: bytes) -> None:
        event = json.loads(line)
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            self._version = ""
            raise error_of_status(item if isinstance(item, dict) else {})
        version = version_of(item)
        change: Change | None = None
        if kind in ("ADDED", "MODIFIED"):
            before, now = self.cache.put(self._prune(item))
            if before is None or version_of(before) != version:  # else it is what we wrote ourselves, and known
                change = before, now
        elif kind == "DELETED":
            before, _ = self.cache.remove(name_of(item))
            change = (before or self._prune(item), None)
        elif kind != "BOOKMARK":
            raise ValueError(f"a watch has no event of the type {kind!r}")
        self._version = version
        if change is not None:
            self._changed(change)

    def _report(self, reason: str) -> None:
        if reason != self.reason:
            logger.warning("%s", reason)
        self.reason = reason

    def _back_off(self, error: Exception, at_least: float = 0.0) -> None:
        if self._stop.is_set():
            return
        logger.info("%s: %s", self, error)
        self.reason = self.reason or f"{self} are not watched: {error}"
        self._restarted(type(error).__name__)
        self._failures += 1
        self._sleep(max(backoff(BACK_OFF_SECONDS, MOST_BACK_OFF_SECONDS, self._failures, self._chance()), at_least))

    def _jittered(self, seconds: float) -> float:
        return seconds * (1.0 + JITTER * (2.0 * self._chance() - 1.0))
