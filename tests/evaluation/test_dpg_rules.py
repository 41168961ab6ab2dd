"""DPG-Bench's rules on graphs made by hand, and the five defects of the reference that one may ask for."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimrg_trainer.evaluation.dpg import (
    Graph,
    Question,
    counted,
    counted_as_the_reference,
    gathered,
    read_graphs,
    score,
    score_as_the_reference,
)

COLUMNS = (
    "item_id text keywords proposition_id dependency category_broad category_detailed tuple question_natural_language"
)


def graph(parents: Mapping[int, Sequence[int]]) -> Graph:
    """Questions in the order in which they are named, all of one category."""
    return Graph(
        "a prompt", {key: Question(f"is {key} there?", tuple(on), "entity - whole") for key, on in parents.items()}
    )


def table(rows: Sequence[tuple[str, int, str, str]]) -> bytes:
    """dpg_bench.csv with (item, number, dependency, tuple) a row."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS.split())
    for item, number, dependency, name in rows:
        writer.writerow([item, f"text of {item}", "", number, dependency, "", "", name, f"is {number} there, really?"])
    return text.getvalue().encode()


CHAIN = {1: [], 2: [1], 3: [2]}
DIAMOND = {1: [], 2: [1], 3: [1], 4: [2, 3]}
LATE = {3: [2], 2: [1], 1: []}
SELF = {1: [1], 2: [1]}
UNKNOWN = {1: [], 2: [9], 3: [1, 9]}
LOOP = {1: [2], 2: [1], 3: []}


@pytest.mark.parametrize(
    ("parents", "no", "zeroed"),
    [
        (CHAIN, [], []),
        (CHAIN, [1], [1, 2, 3]),
        (CHAIN, [2], [2, 3]),
        (CHAIN, [3], [3]),
        (DIAMOND, [2], [2, 4]),
        (DIAMOND, [1], [1, 2, 3, 4]),
        (LATE, [1], [1, 2, 3]),
        (SELF, [], []),
        (SELF, [1], [1, 2]),
        (UNKNOWN, [], []),
        (UNKNOWN, [1], [1, 3]),
        (LOOP, [2], [1, 2]),
        (LOOP, [], []),
    ],
)
def test_a_no_counts_for_all_that_depends_on_it(
    parents: Mapping[int, Sequence[int]], no: list[int], zeroed: list[int]
) -> None:
    found = counted(graph(parents), {key: key not in no for key in parents})
    assert [key for key in sorted(parents) if not found[key]] == zeroed


@given(st.data())
def test_what_counts_depends_on_no_order_and_is_the_references_where_parents_come_first(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    parents = {
        key: data.draw(st.lists(st.integers(1, key - 1), max_size=3)) if key > 1 else [] for key in range(1, count + 1)
    }
    answers = {key: data.draw(st.booleans()) for key in parents}
    found = counted(graph(parents), answers)
    assert found == counted_as_the_reference(graph(parents), answers)
    shuffled = dict(data.draw(st.permutations(list(parents.items()))))
    assert counted(graph(shuffled), answers) == found


def test_a_table_becomes_graphs() -> None:
    graphs = read_graphs(
        table(
            [
                ("a", 1, "0", "entity - whole (car)"),
                ("a", 2, "1", "attribute - color (car, red)"),
                ("b", 1, "0", "global - "),
            ]
        )
    )
    assert list(graphs) == ["a", "b"] and graphs["a"].prompt == "text of a"
    assert graphs["a"].questions[2] == Question("is 2 there, really?", (1,), "attribute - color")
    assert graphs["a"].unknown_parents() == 0 and graph(UNKNOWN).unknown_parents() == 2


def test_a_table_with_several_parents_and_spaces_is_read() -> None:
    (found,) = read_graphs(
        table([("a", 1, "0", "other (x)"), ("a", 2, "0", "other (y)"), ("a", 3, "1, 2", "other (z)")])
    ).values()
    assert found.questions[3].parents == (1, 2)


def test_what_is_no_table_of_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="no column item_id"):
        read_graphs(b"a,b\n1,2\n")
    with pytest.raises(ValueError, match="row 2 is no question"):
        read_graphs(table([("a", 1, "0", "other (x)"), ("a", 2, "one", "other (y)")]))


TWO = {
    "a": Graph("a", {1: Question("?", (), "entity - whole"), 2: Question("?", (1,), "attribute - color")}),
    "b": Graph("b", {1: Question("?", (), "entity - part")}),
}


def test_the_score_is_the_mean_over_questions_images_and_prompts() -> None:
    answers = {
        "a": [{1: True, 2: True}, {1: True, 2: False}, {1: False, 2: True}, {1: True, 2: True}],
        "b": [{1: True}, {1: False}],
    }
    found = score(TWO, answers)
    assert found.prompts == pytest.approx({"a": (1 + 0.5 + 0 + 1) / 4, "b": 0.5})
    assert found.overall == pytest.approx(100 * (0.625 + 0.5) / 2)
    assert found.categories == pytest.approx(
        {
            "entity": 100 * 4 / 6,
            "entity - whole": 75.0,
            "entity - part": 50.0,
            "attribute": 50.0,
            "attribute - color": 50.0,
        }
    )


def test_all_yes_is_100_and_all_no_is_0() -> None:
    for yes in (True, False):
        found = score(TWO, {"a": [{1: yes, 2: True}], "b": [{1: yes}]})
        assert found.overall == 100 * yes and set(found.categories.values()) == {100.0 * yes}
    with pytest.raises(ValueError, match="no image has answers"):
        score(TWO, {"a": []})


def test_defect_1_the_first_question_of_the_table_is_lost() -> None:
    content = table([("a", 1, "0", "entity (x)"), ("a", 2, "0", "entity (y)"), ("b", 1, "0", "entity (z)")])
    assert {item: list(one.questions) for item, one in read_graphs(content, reference=True).items()} == {
        "a": [2],
        "b": [1],
    }
    assert list(read_graphs(content)["a"].questions) == [1, 2]


def test_defect_2_categories_know_the_last_image_and_its_bare_answers() -> None:
    answers = {"a": [{1: True, 2: False}, {1: False, 2: True}]}
    found = score_as_the_reference(TWO, answers, seed=0, processes=1)
    assert found.categories["attribute"] == 100 and found.categories["entity"] == 0
    assert score(TWO, answers).categories["attribute"] == 0 and found.overall == score(TWO, answers).overall


def test_defect_3_an_item_that_fails_is_dropped_from_the_mean() -> None:
    graphs = {"a": graph(UNKNOWN), "b": TWO["b"]}
    answers = {"a": [dict.fromkeys(UNKNOWN, False)], "b": [{1: True}]}
    found = score_as_the_reference(graphs, answers, seed=0)
    assert (found.overall, found.dropped) == (100.0, ("a",))
    assert score(graphs, answers).overall == 50.0


def test_defect_4_processes_that_gather_in_other_orders_mix_categories() -> None:
    first, second = {"entity": [1.0], "global": [0.75]}, {"entity": [0.25], "other": [0.5]}
    names = ["entity", "global", "other"]
    assert gathered([first, second], [names, names]) == {"entity": [1.0, 0.25], "global": [0.75], "other": [0.5]}
    mixed = gathered([first, second], [names, names[::-1]])
    assert mixed == {"entity": [1.0, 0.5], "global": [0.75], "other": [0.25]}


def test_defect_4_leaves_the_overall_score_as_it_is() -> None:
    graphs = {f"{n}": Graph("", {1: Question("?", (), f"entity - {n % 3}")}) for n in range(30)}
    answers = {item: [{1: int(item) % 3 == 0}] for item in graphs}
    right = score(graphs, answers)
    mixed = [score_as_the_reference(graphs, answers, seed=seed) for seed in range(3)]
    assert [one.overall for one in mixed] == pytest.approx([100 / 3] * 3) and right.overall == pytest.approx(100 / 3)
    assert right.categories["entity - 0"] == 100
    assert any(one.categories != right.categories for one in mixed)
