"""Leadership by a Lease of coordination.k8s.io: of several replicas one acts; whoever loses the Lease stops at once.

Two never act at the same time, whatever the network does: the holder gives up 10 s after it sent its last renewal that
was answered, the others wait for 15 s without a change, each by its own monotonic clock, so that wrong clocks of
machines do not matter.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from unimrg_operator.kube.errors import ApiError, Conflict, NotFound

logger = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
"""A candidate takes a Lease over that did not change for so long."""
RENEW_SECONDS = 10.0
"""The holder stops acting if it could not renew for so long."""
RETRY_SECONDS = 2.0
"""How often the holder renews and candidates look."""
JITTER = 0.2
"""Candidates wait for up to so much longer, so that they do not all ask at once."""

Object = dict[str, Any]


@dataclass(frozen=True)
class _Leases:
    """The kind, as the API addresses it."""

    group: str = "coordination.k8s.io"
    version: str = "v1"
    plural: str = "leases"
    kind: str = "Lease"


LEASES = _Leases()


class LeaseClient(Protocol):
    """What is needed of a client. Each call ends, with an ApiError if need be, well within RENEW_SECONDS."""

    def get(self, resource: Any, namespace: str, name: str) -> Object: ...
    def create(self, resource: Any, namespace: str, body: Object) -> Object: ...
    def update(self, resource: Any, namespace: str, name: str, body: Object) -> Object: ...


class LeaderLease:
    """One candidate. `held` may be asked from any thread; everything else belongs to one thread at a time."""

    def __init__(
        self,
        client: LeaseClient,
        namespace: str,
        name: str,
        *,
        identity: str = "",
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.identity = identity or f"{socket.gethostname()[:64]}_{uuid.uuid4()}"
        self._client = client
        self._namespace = namespace
        self._name = name
        self._clock = clock
        self._chance = chance
        self._valid_until = float("-inf")
        self._known: Object | None = None
        """The Lease as we last wrote it; None: it must be read first."""
        self._seen: tuple[str, float] = ("", 0.0)
        """The resource version that was last read, and when it was first seen."""
        self._renewing = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether this process may act now."""
        return self._clock() < self._valid_until

    def acquire(self, stop: threading.Event) -> bool:
        """Try until the Lease is held, then renew it in a thread of its own; False if `stop` was set before."""
        while not stop.is_set():
            if self.attempt():
                logger.info("leading as %s", self.identity)
                self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
                self._thread.start()
                return True
            stop.wait(RETRY_SECONDS * (1.0 + JITTER * self._chance()))
        return False

    def wait(self, stop: threading.Event) -> bool:
        """Return when `stop` is set (True) or the Lease is lost (False)."""
        while not stop.is_set():
            left = self._valid_until - self._clock()
            if left <= 0:
                return False
            stop.wait(left)
        return True

    def release(self) -> None:
        """Give the Lease back, so that another replica need not wait for its end. Nothing must be written any more."""
        self._renewing.set()
        if self._thread is not None:
            self._thread.join()
        held, known = self.held, self._known
        self._valid_until = float("-inf")
        if not held or known is None:
            return
        spec = {**known["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
        try:
            self._client.update(LEASES, self._namespace, self._name, {**known, "spec": spec})
        except ApiError as error:
            logger.info("the Lease %s was not released: %s", self._name, error)

    def attempt(self) -> bool:
        """Try once to take or renew the Lease; return whether it is held."""
        try:
            asked = self._clock()
            self._known = self._write()
            if self._known is not None:
                # From when the request left: whoever reads what it wrote reads it later.
                self._valid_until = asked + RENEW_SECONDS
        except Conflict:  # somebody wrote it meanwhile, or our own reply was lost
            self._known = None
        except ApiError as error:
            self._known = None
            logger.info("the Lease %s cannot be had or renewed: %s", self._name, error)
        return self.held

    def _renew(self) -> None:
        while not self._renewing.wait(RETRY_SECONDS) and self.attempt():
            pass

    def _write(self) -> Object | None:
        """Write the Lease as ours and return it; None where it is another's. Raises ApiError."""
        lease = self._known
        try:
            lease = lease or self._client.get(LEASES, self._namespace, self._name)
        except NotFound:
            metadata = {"name": self._name, "namespace": self._namespace}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
            return self._client.create(LEASES, self._namespace, {**body, "spec": self._spec({})})
        before = lease.get("spec") or {}
        if not self._is_free(lease, before):
            self._valid_until = float("-inf")
            return None
        return self._client.update(LEASES, self._namespace, self._name, {**lease, "spec": self._spec(before)})

    def _is_free(self, lease: Object, spec: Object) -> bool:
        """Whether the Lease may be taken: it is ours, nobody's, or did not change for as long as it is good for."""
        version, now = str(lease["metadata"]["resourceVersion"]), self._clock()
        if version != self._seen[0]:
            self._seen = (version, now)
        duration = float(spec.get("leaseDurationSeconds") or LEASE_SECONDS)
        return spec.get("holderIdentity") in (self.identity, "", None) or now - self._seen[1] >= duration

    def _spec(self, before: Object) -> Object:
        now = _now()
        ours = before.get("holderIdentity") == self.identity
        transitions = int(before.get("leaseTransitions") or 0)
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(LEASE_SECONDS),
            "acquireTime": before.get("acquireTime") or now if ours else now,
            "renewTime": now,
            "leaseTransitions": transitions if ours or not before else transitions + 1,
        }


def _now() -> str:
    """Return the time in the API's form, for people: nothing is decided by it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
