"""The operator's processes at a real API server with kwok's pods: faults, outages, kills and a leader that dies.

Whatever happens, jobs end as they would have ended undisturbed, and no attempt has two children.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane, KubectlError
from tests.support.fault_proxy import RATES, fault_proxy
from tests.support.kwok_cluster import SYSTEM, KwokCluster

STAGES = ("check", "train", "finish")
UNDISTURBED = ("Succeeded", [(stage, 1, "Succeeded") for stage in STAGES])


def check_undisturbed(cluster: KwokCluster, names: list[str]) -> None:
    """All have ended at their first attempts, every child was made once, and nobody else's pods are about."""
    ends = cluster.ends()
    assert {name: (phase, [row for row in rows if row[1]]) for name, (phase, rows) in ends.items()} == dict.fromkeys(
        names, UNDISTURBED
    )
    children = cluster.children()
    assert set(children) == {f"{name}-{stage}-1" for name in names for stage in STAGES}
    owners = {pod["metadata"]["ownerReferences"][0]["uid"] for pod in cluster.list("pods")}
    assert owners <= set(children.values())


def leader(cluster: KwokCluster) -> str:
    """Return the log's name for the process that holds the Lease; empty if nobody does."""
    try:
        lease = cluster.control_plane.get("lease", "unimrg-operator", f"--namespace={SYSTEM}")
    except KubectlError:
        return ""
    return str(lease["spec"].get("holderIdentity") or "")


def test_jobs_end_as_if_nothing_was_wrong_behind_a_faulty_api_server(kwok_cluster: KwokCluster) -> None:
    plane, names = kwok_cluster.control_plane, [f"job-{number}" for number in range(6)]
    with fault_proxy(plane.server, str(plane.authority), seed=11) as proxy:
        kwok_cluster.operator(server=proxy.uri, ready=False)
        kwok_cluster.submit(*names)
        kwok_cluster.until(kwok_cluster.all_over, 180.0)
        assert {fault for fault, count in proxy.injected.items() if count} == set(RATES)
    check_undisturbed(kwok_cluster, names)


@pytest.fixture
def slow_cluster(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[KwokCluster]:
    """A cluster whose trainings take 90 s."""
    cluster = KwokCluster(control_plane, namespace, tmp_path)
    try:
        cluster.start(run_seconds=90.0)
        yield cluster
    finally:
        cluster.stop()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_three_minutes_without_the_api_server_restart_nothing(slow_cluster: KwokCluster) -> None:
    plane, names = slow_cluster.control_plane, ["one", "two", "three"]
    with fault_proxy(plane.server, str(plane.authority), seed=0, rates={}) as proxy:
        slow_cluster.operator(server=proxy.uri)
        slow_cluster.submit(*names)
        slow_cluster.until(lambda: set(slow_cluster.phases().values()) == {"Running"})
        proxy.unreachable = True
        time.sleep(180.0)  # the outage itself; the pods end in the middle of it
        proxy.unreachable = False
        slow_cluster.until(slow_cluster.all_over, 120.0)
    check_undisturbed(slow_cluster, names)


@pytest.mark.slow
def test_another_replica_takes_over_from_a_leader_that_ends_is_killed_or_cut_off(kwok_cluster: KwokCluster) -> None:
    plane, elect = kwok_cluster.control_plane, ("--leader-elect", f"--lease-namespace={SYSTEM}")
    with fault_proxy(plane.server, str(plane.authority), seed=0, rates={}) as proxy:
        first = kwok_cluster.operator(*elect)
        holders = [kwok_cluster.until(lambda: leader(kwok_cluster))]

        def taken_over(seconds: float) -> None:
            holders.append(
                kwok_cluster.until(lambda: leader(kwok_cluster) not in ("", *holders) and leader(kwok_cluster), seconds)
            )

        second = kwok_cluster.operator(*elect)
        assert leader(kwok_cluster) == holders[0]
        kwok_cluster.submit("one")
        kwok_cluster.until(lambda: "one-check-1" in kwok_cluster.children())
        assert "CreateChild" not in second.last_lines()

        first.signal(signal.SIGTERM)
        assert first.wait(20.0) == 0
        taken_over(10.0)  # released: nobody waits for its end
        third = kwok_cluster.operator(*elect, server=proxy.uri)
        second.kill()
        taken_over(60.0)
        kwok_cluster.submit("two")
        kwok_cluster.until(lambda: "two-check-1" in kwok_cluster.children())

        fourth = kwok_cluster.operator(*elect)
        proxy.unreachable = True
        assert third.wait(60.0) == 69  # it gives up
        assert leader(kwok_cluster) == holders[-1]  # before anybody else begins
        taken_over(60.0)
        kwok_cluster.submit("three")
        kwok_cluster.until(kwok_cluster.all_over, 120.0)
        assert fourth.status is None
    check_undisturbed(kwok_cluster, ["one", "two", "three"])


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_killed_at_sixty_random_moments_it_leaves_the_same_end(kwok_cluster: KwokCluster) -> None:
    draw, names = random.Random(5), list[str]()
    for number in range(60):
        process = kwok_cluster.operator(ready=False)
        if number % 4 == 0:
            names.append(f"job-{len(names)}")
            kwok_cluster.submit(names[-1])
        process.wait(draw.uniform(0.5, 8.0))
        assert process.status is None
        process.kill()
    kwok_cluster.operator()
    kwok_cluster.until(kwok_cluster.all_over, 120.0)
    check_undisturbed(kwok_cluster, names)
