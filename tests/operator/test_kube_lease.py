"""Leadership: two candidates never lead at once, whatever the network does, and a free Lease is taken soon."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from tests.support.virtual_clock import VirtualClock
from unimrg_operator.kube.errors import AlreadyExists, ApiError, Conflict, NotFound, Unavailable
from unimrg_operator.kube.lease import LeaderLease

Object = dict[str, Any]


class Leases:
    """One Lease as an API server keeps it, behind a network that loses requests and answers and takes its time."""

    def __init__(self, clock: VirtualClock, draw: random.Random) -> None:
        self.clock, self.draw = clock, draw
        self.lease: Object | None = None
        self.writes = 0
        self.cut_off: set[str] = set()
        """Candidates that reach nobody."""
        self.loss = 0.0
        """Probability that an answer is lost, though the request was carried out."""
        self.candidates: list[LeaderLease] = []

    def pass_time(self, seconds: float) -> None:
        """Move on in small steps: at none of them two candidates lead."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            leading = [candidate.identity for candidate in self.candidates if candidate.held]
            assert len(leading) <= 1, (self.clock(), leading)

    def leader(self) -> str:
        return next((candidate.identity for candidate in self.candidates if candidate.held), "")

    def ask(self, who: str, request: Any) -> Object:
        if who in self.cut_off:
            self.pass_time(4.0)
            raise Unavailable(0, "ReadTimeout", "no answer")
        self.pass_time(self.draw.uniform(0.0, 2.0) if self.loss else 0.0)
        answer: Object = request()
        self.pass_time(self.draw.uniform(0.0, 2.0) if self.loss else 0.0)
        if self.draw.random() < self.loss:
            raise Unavailable(0, "ReadTimeout", "no answer")
        return answer

    def get(self) -> Object:
        if self.lease is None:
            raise NotFound(404, "NotFound", "no such Lease")
        return self.lease

    def put(self, body: Object, *, new: bool) -> Object:
        if new and self.lease is not None:
            raise AlreadyExists(409, "AlreadyExists", "it is there")
        if not new and self.get()["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "it has changed")
        self.writes += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.writes)}}
        return self.lease

    def candidate(self, name: str) -> LeaderLease:
        leases = self

        class Client:
            def get(self, *_: Any) -> Object:
                return leases.ask(name, leases.get)

            def create(self, _kind: Any, _namespace: str, body: Object) -> Object:
                return leases.ask(name, lambda: leases.put(body, new=True))

            def update(self, _kind: Any, _namespace: str, _name: str, body: Object) -> Object:
                return leases.ask(name, lambda: leases.put(body, new=False))

        candidate = LeaderLease(Client(), "system", "operator", identity=name, clock=self.clock)
        self.candidates.append(candidate)
        return candidate


@pytest.fixture
def leases(virtual_clock: VirtualClock) -> Leases:
    return Leases(virtual_clock, random.Random(7))


def test_of_two_one_leads_and_renews(leases: Leases) -> None:
    first, second = leases.candidate("a"), leases.candidate("b")
    for _ in range(20):
        assert (first.attempt(), second.attempt()) == (True, False)
        leases.pass_time(2.0)
    assert leases.lease is not None and leases.lease["spec"]["leaseTransitions"] == 0


def test_one_that_is_cut_off_stops_before_the_other_begins(leases: Leases, virtual_clock: VirtualClock) -> None:
    first, second = leases.candidate("a"), leases.candidate("b")
    assert first.attempt() and not second.attempt()
    leases.cut_off.add("a")
    since = virtual_clock()
    while first.held:
        first.attempt()
        assert not second.attempt()
    assert virtual_clock() - since <= 10.0 + 4.0  # a request may be under way when it ends
    while not second.attempt():
        leases.pass_time(1.0)
    assert 15.0 <= virtual_clock() - since <= 20.0
    leases.cut_off.clear()
    assert not first.attempt()
    assert leases.lease is not None and leases.lease["spec"]["leaseTransitions"] == 1


def test_a_lease_that_was_released_is_taken_at_once(leases: Leases) -> None:
    first, second = leases.candidate("a"), leases.candidate("b")
    assert first.attempt() and not second.attempt()
    first.release()
    assert not first.held
    assert second.attempt()


def test_waiting_ends_with_the_lease_or_with_the_stop_signal(leases: Leases, virtual_clock: VirtualClock) -> None:
    candidate, stop = leases.candidate("a"), threading.Event()
    assert candidate.attempt()
    virtual_clock.advance(10.0)
    assert not candidate.wait(stop)
    stop.set()
    assert candidate.wait(stop)
    assert not candidate.acquire(stop)


def test_two_never_lead_at_once_on_any_network(leases: Leases) -> None:
    draw = leases.draw
    candidates = [leases.candidate(name) for name in "abc"]
    led = set()
    for _ in range(3000):
        if draw.random() < 0.05:
            leases.cut_off = {name for name in "abc" if draw.random() < 0.4}
            leases.loss = draw.choice((0.0, 0.1, 0.5))
        candidate = draw.choice(candidates)
        if draw.random() < 0.02:
            candidate.release()
        candidate.attempt()
        led.add(leases.leader())
        leases.pass_time(draw.choice((0.1, 1.0, 2.0, 5.0)))
    assert led == {"", "a", "b", "c"}


def test_an_answer_that_makes_no_sense_does_not_end_the_leader(leases: Leases) -> None:
    candidate = leases.candidate("a")
    assert candidate.attempt()
    for error in (ApiError(302, "", "moved"), Unavailable(500, "InternalError", "etcd")):
        leases.put = _raising(error)  # type: ignore[method-assign]
        assert candidate.attempt()


def _raising(error: ApiError) -> Any:
    def put(*_: Any, **__: Any) -> Object:
        raise error

    return put
