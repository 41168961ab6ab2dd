"""Every reason that the operator can give has an entry in docs/how-to/trouble.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from unimrg_api.exit_codes import OUT_OF_MEMORY, RULES
from unimrg_api.stages import STAGES
from unimrg_operator.core.trouble.finding import Trouble

ROOT = Path(__file__).parents[2]
PLACES = {"ConditionValue": 1, "Standing": 1, "Rule": 0, "Cause": 0, "Result": 0, "Waiting": 0, "_creation_error": 0}
"""Which argument of these calls is a reason, where it is not called `reason`."""
NOT_OURS = {"Unreadable"}
"""Of a termination record that is no record: no condition shows it."""


def test_every_reason_of_a_condition_or_an_end_has_an_entry() -> None:
    page = (ROOT / "docs/how-to/trouble.md").read_text()
    known = {word for cell in re.findall(r"^\|([^|]+)\|", page, re.M) for word in re.findall(r"`(\w+)`", cell)}
    reasons = {*Trouble, *(rule.reason for rule in (*RULES.values(), OUT_OF_MEMORY))}
    reasons |= {stage.failure_reason for stage in STAGES.values() if stage.failure_reason}
    for path in (ROOT / "operator").rglob("*.py"):
        reasons |= set(_reasons(ast.parse(path.read_text())))
    assert {"NodeExcluded", "PodLost", "ImageUnusable", "NameConflict"} <= reasons, "the search finds too little"
    assert reasons - known - NOT_OURS == set()


def _reasons(tree: ast.AST) -> Iterator[str]:
    """Return the literal reasons in calls, in assignments to `reason`, and in pairs of reason and message."""
    for node in ast.walk(tree):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            values += node.args[PLACES[name] :][:1] if name in PLACES else []
            values += [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            if name == "append" and node.args and isinstance(node.args[0], ast.Tuple):
                values += node.args[0].elts[:1]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple | ast.Name):
            target, value = node.targets[0], node.value
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            if getattr(names[0], "id", "") == "reason":
                values += value.elts[:1] if isinstance(value, ast.Tuple) else [value]
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            values += node.value.elts[:1]
        for value in values:
            if isinstance(value, ast.Constant) and re.fullmatch(r"[A-Z][A-Za-z]+", str(value.value)):
                yield str(value.value)
