"""Names that do not exist, on a real kubelet: what a job then says. docs/development.md has the last results."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.e2e.machine import say
from tests.e2e.real_cluster import Object, RealCluster

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


def told(*words: str) -> Callable[[Object], bool]:
    """Whether some condition's message has all of these words."""

    def holds(job: Object) -> bool:
        messages = [item.get("message", "") for item in job.get("status", {}).get("conditions", [])]
        return any(all(word in message for word in words) for message in messages)

    return holds


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("no-image", {"image": "unimrg-trainer:absent"}, ["unimrg-trainer:absent"]),
        ("no-secret", {"storage": {"credentials": {"secretName": "nobody"}}}, ["nobody"]),
        ("no-host", {"storage": {"endpoint": "http://nowhere.services.svc:8333"}}, ["nowhere.services.svc"]),
    ],
)
def test_a_name_that_does_not_exist_is_reported(
    real_cluster: RealCluster, name: str, change: Object, words: list[str]
) -> None:
    job = real_cluster.quick_start(name)
    for field, value in change.items():
        job["spec"][field] = {**job["spec"].get(field, {}), **value} if isinstance(value, dict) else value
    real_cluster.submit(job)
    begin = time.monotonic()
    real_cluster.wait_for(name, told(*words), f"told of {words}", seconds=300)
    say(f"{name}: reported after {time.monotonic() - begin:.0f} s")
    real_cluster.kubectl("delete", "umj", name, f"--namespace={real_cluster.namespace}")
