"""The pod's environment survives the way through variables, and what cannot be right is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimrg_api.environment import FIRST_PORT, LAST_PORT, PodEnvironment, ports
from unimrg_api.errors import UserError

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
PATHS = st.lists(st.text("abcäü .-", min_size=1, max_size=5), max_size=3).map(lambda parts: Path("/", *parts))


@given(
    st.builds(
        PodEnvironment,
        job=st.text("abc-", min_size=1),
        uid=TEXT,
        attempt=st.just("") | st.integers(0, 10**6).map(str),
        spec=TEXT,
        spec_base=PATHS,
        run_dir=PATHS,
        cache=PATHS,
        termination_log=PATHS,
        nodes=st.just(64),
        node_rank=st.integers(0, 63),
        processes=st.integers(1, 64),
        stall_timeout=st.integers(1, 10**6),
        grace=st.integers(1, 10**6),
    )
)
def test_an_environment_survives_the_way_through_variables(env: PodEnvironment) -> None:
    assert PodEnvironment.from_environ(env.to_environ()) == env


def test_a_variable_that_is_set_to_nothing_has_its_default() -> None:
    assert PodEnvironment().to_environ()["UNIMRG_TERMINATION_LOG"] == "/dev/termination-log"
    empty = dict.fromkeys(PodEnvironment().to_environ(), "")
    assert PodEnvironment.from_environ({"PATH": "/bin"}) == PodEnvironment()
    assert PodEnvironment.from_environ(empty) == PodEnvironment()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UNIMRG_NODES", "0"),
        ("UNIMRG_PROCESSES", "-1"),
        ("UNIMRG_ATTEMPT", "1.5"),
        ("UNIMRG_GRACE", "٣"),
        ("UNIMRG_NODE_RANK", "1"),  # of one node
    ],
)
def test_a_variable_that_cannot_be_right_is_named(name: str, value: str) -> None:
    with pytest.raises(UserError, match=name):
        PodEnvironment.from_environ({name: value})


@given(st.text(), st.integers(0, 10**6))
def test_ports_are_a_pair_in_the_range_and_the_same_everywhere(uid: str, attempt: int) -> None:
    rendezvous, progress = ports(uid, attempt)
    assert FIRST_PORT <= rendezvous < progress <= LAST_PORT
    assert progress == rendezvous + 1
    assert ports(uid, str(attempt)) == (rendezvous, progress)
    assert len({ports("f3b1", number) for number in range(10)}) == 10
