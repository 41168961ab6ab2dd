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
from unimrg_operator.kube.cache import Cache, Change, is_newer, name_of, version_of
from unimrg_operator.kube.client import Client, Object, Resource, Watch
from unimrg_operator.kube.errors import ApiError, Forbidden, Gone, NotFound, Unauthorized, error_of_status

logger = logging.getLogger(__name__)

WATCH_SECONDS = 290.0
"""How long a watch lasts: below the five minutes after which load balancers like to cut."""
JITTER = 0.1
"""Durations vary by so much, so that not everybody comes back at once."""
RELIST_SECONDS = 2700.0
"""A new list as a safety net."""
BACK_OFF_SECONDS = 1.0
MOST_BACK_OFF_SECONDS = 30.0
LIVED_SECONDS = 5.0
"""A watch that lasted so long was a good one, even if nothing happened."""
FUTILE_WATCHES = 3
"""After so many watches in a row that could not be opened the cache is too old to go without a list."""


class _Interruption(Exception):  # noqa: N818 - nothing is wrong with the program
    """A list or watch ended otherwise than planned; `cause` is one word for the metric."""

    def __init__(self, cause: str, message: str, *, retry_after: float = 0.0, doubt: bool = True) -> None:
        super().__init__(message)
        self.cause = cause
        self.retry_after = retry_after
        self.doubt = doubt
        """Whether the cache may be wrong, so that a list is needed."""


class Reflector:
    """One kind in one namespace. `run` is its life; everything else may be called from other threads."""

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

        `optional`: the kind comes with another operator, so that where it is not served there is nothing of it.
        `restarted` is called with the cause each time a list or watch ended otherwise than planned.
        """
        self.resource = resource
        self.namespace = namespace
        self.cache = Cache(index)
        self.missing = False
        """The API server did not know the kind when it was last asked."""
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
        self._listed = False
        self._list_problem = "not listed yet"
        self._watch_problem = ""
        self._futile_watches = 0
        self._admitted: dict[str, Object] = {}
        """What was created here and not observed yet."""
        self._failures = 0
        self._version = ""
        """How far the cache is; empty: nobody knows."""
        self._relist_at = 0.0
        self._stream: Watch | None = None

    @property
    def reason(self) -> str:
        """Why the cache is not in step with the API server; empty if it is."""
        return self._list_problem or self._watch_problem

    @property
    def synced(self) -> bool:
        """Whether the last list succeeded and the last watch could be opened."""
        return not self.reason

    @property
    def usable(self) -> bool:
        """Whether the cache may be decided on: it was filled once, or is of an optional kind that is not served."""
        return self._listed or (self._optional and self.missing)

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
                    raise _Interruption("ended", f"the watch of {self} ended at once", doubt=False)
                self._failures = 0
            except _Interruption as interruption:
                self._back_off(interruption)
            except Exception as error:
                logger.exception("%s: unexpected error", self)
                self._back_off(_Interruption("internal", str(error)))

    def stop(self) -> None:
        """Make `run` return soon."""
        self._stop.set()
        stream = self._stream
        if stream is not None:
            stream.interrupt()

    def admit(self, item: Object) -> None:
        """Take in an object that was just created, so that it is known before the watch brings it."""
        kept = self._prune(item)
        if not is_newer(kept, self._version):
            return  # the watch is past it: it is cached, or was deleted already
        self._admitted[name_of(kept)] = kept
        if self.cache.add(kept):
            self._changed((None, kept))

    def __str__(self) -> str:
        group = f".{self.resource.group}" if self.resource.group else ""
        return f"{self.resource.plural}{group} in {self.namespace}"

    def _list(self) -> None:
        items: list[Object] = []
        token = ""
        while True:
            try:
                page = self._client.list_page(
                    self.resource, self.namespace, label_selector=self._label_selector, continue_token=token
                )
            except ApiError as error:
                raise self._cannot_list(error) from error
            try:
                items += [self._prune(item) for item in page.get("items") or []]
                token = page["metadata"].get("continue") or ""
                version = version_of(page)
            except (KeyError, TypeError, AttributeError) as error:
                raise _Interruption("unparsable", f"the list of {self} cannot be read: {error!r}") from error
            if not token:
                break
        # A list that was begun before an object was created does not have it.
        names = {name_of(item) for item in items}
        for name, item in list(self._admitted.items()):
            if not is_newer(item, version):
                self._admitted.pop(name, None)
            elif name not in names:
                items.append(item)
        changes = self.cache.replace(items)
        self._listed, self.missing, self._list_problem = True, False, ""
        self._version = version
        for change in changes:
            self._changed(change)

    def _cannot_list(self, error: ApiError) -> _Interruption:
        cause, reason = "unavailable", f"{self} cannot be listed: {error}"
        if isinstance(error, NotFound):
            # What was cached stays: an API server that is starting may not know its kinds yet.
            cause, self.missing = "missing", True
            reason = f"{self} are not served: is their CustomResourceDefinition installed?"
        elif isinstance(error, Forbidden):
            cause = "forbidden"
        elif isinstance(error, Gone):
            cause = "gone"
        if reason != self._list_problem:
            logger.warning("%s", reason)
        self._list_problem = reason
        return _Interruption(cause, reason, retry_after=error.retry_after)

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
        except Gone as error:
            raise _Interruption("gone", f"the watch of {self} is too old: {error}") from error
        except ApiError as error:
            raise self._cannot_watch(error) from error
        self._watch_problem, self._futile_watches = "", 0
        self._stream = stream
        try:
            if self._stop.is_set():
                return
            for line in stream:
                self._take_in(line)
                self._failures = 0
        except ApiError as error:
            raise _Interruption("cut", f"the watch of {self} broke: {error}", doubt=False) from error
        finally:
            self._stream = None
            stream.close()

    def _cannot_watch(self, error: ApiError) -> _Interruption:
        """Nothing was lost yet, so the same is asked for again; but where that is no use, lists have to do."""
        reason = f"{self} cannot be watched: {error}"
        if reason != self._watch_problem:
            logger.warning("%s", reason)
        self._watch_problem = reason
        self._futile_watches += 1
        futile = isinstance(error, Unauthorized | Forbidden | NotFound) or self._futile_watches >= FUTILE_WATCHES
        return _Interruption("unavailable", reason, retry_after=error.retry_after, doubt=futile)

    def _take_in(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            kind, item = event["type"], event["object"]
            if kind == "ERROR":
                error = error_of_status(item if isinstance(item, dict) else {})
                cause = "gone" if isinstance(error, Gone) else "error"
                raise _Interruption(cause, f"the watch of {self} ended: {error}", retry_after=error.retry_after)
            version = version_of(item)
            if kind == "BOOKMARK":
                self._version = version
                return
            if kind in ("ADDED", "MODIFIED"):
                change = self.cache.put(self._prune(item))
                self._admitted.pop(name_of(item), None)
            elif kind == "DELETED":
                before, _ = self.cache.remove(name_of(item))
                self._admitted.pop(name_of(item), None)
                change = (before or self._prune(item), None)
            else:
                raise _Interruption("unparsable", f"the watch of {self} has an event of the type {kind!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"the watch of {self} has a line that is no event: {line[:80]!r}"
            raise _Interruption("unparsable", message) from error
        self._version = version
        self._changed(change)

    def _back_off(self, interruption: _Interruption) -> None:
        if self._stop.is_set():
            return
        if interruption.doubt:
            self._version = ""
        self._restarted(interruption.cause)
        logger.info("%s", interruption)
        self._failures += 1
        seconds = backoff(BACK_OFF_SECONDS, MOST_BACK_OFF_SECONDS, self._failures, self._chance())
        self._sleep(max(seconds, interruption.retry_after))

    def _jittered(self, seconds: float) -> float:
        return seconds * (1.0 + JITTER * (2.0 * self._chance() - 1.0))
