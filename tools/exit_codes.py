"""Writes docs/reference/exit_codes.md from the table in code."""

from __future__ import annotations

from unimrg_api.exit_codes import DISRUPTED, OUT_OF_MEMORY, RULES, Action, Budget, Rule

_INTRODUCTION = """# Exit codes

<!-- Written by `python -m tools.generate` from api/unimrg_api/exit_codes.py; edit it there. -->

Commands, launchers and pods end with these codes. `unimrg run` never restarts by itself: the column "On a cluster" says
what the operator does, and which budget of `spec.runPolicy` a restart is counted against. A free restart without a new
commit since the one before counts against `maxInfraRestarts`.

| Code | Reason | Meaning | On a cluster |
|---|---|---|---|
"""

_END = """
A code that is not in the table is taken for a failure of the program, as 70. `unimrg` ends with 64 for wrong usage, and
with 130 after Ctrl-C at a prompt or while it waits.

For people who meet a code at the end of `unimrg run`: [what happened and what to do](../../{page}#exit-codes).
For the way from an exception to a code: [how a stage ends](../../{page}#12-how-a-stage-ends).
"""

_BUDGETS = {Budget.USER: "`maxRestarts`", Budget.INFRA: "`maxInfraRestarts`", Budget.FREE: "no budget"}


def exit_codes_page() -> str:
    """Return the page as Markdown."""
    rows = [(str(int(code)), rule) for code, rule in RULES.items()]
    rows += [("137, OOMKilled", OUT_OF_MEMORY), ("137 or 143, evicted or drained", DISRUPTED)]
    return _INTRODUCTION + "".join(_row(code, rule) for code, rule in rows) + _END.format(page="docs/walkthrough.md")


def _row(code: str, rule: Rule) -> str:
    follows = {
        Action.DONE: "goes on",
        Action.FAIL: "the job fails",
        Action.RESTART: "restart",
        Action.RESTART_ELSEWHERE: "restart on another node",
    }[rule.action]
    if rule.budget in _BUDGETS:
        follows += f", counted against {_BUDGETS[rule.budget]}"
    if rule.exclude_node_after is not None:
        follows += f"; the node is left out after {rule.exclude_node_after} of them"
    if rule.fail_after is not None:
        follows += f"; the job fails at number {rule.fail_after}"
    return f"| {code} | {rule.reason} | {rule.meaning} | {follows} |\n"
