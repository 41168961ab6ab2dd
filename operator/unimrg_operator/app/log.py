"""The operator's log: one JSON object per line on stderr, with fixed keys."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from unimrg_api.redaction import clean
from unimrg_api.status import JobStatus, StageStatus
from unimrg_operator.core.decision import Action, CreateChild
from unimrg_operator.core.observation import ObservedJob

decisions = logging.getLogger("unimrg_operator.decisions")

_MESSAGE_LIMIT = 4096


class JsonFormatter(logging.Formatter):
    """{time, level, message}, or {time, job, uid, attempt, stages, from, to, reason, actions} for a decision."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields: dict[str, Any] | None = getattr(record, "decision", None)
        if fields is None:
            text = record.getMessage()
            if record.exc_info:
                text = f"{text}\n{self.formatException(record.exc_info)}"
            fields = {"level": record.levelname, "message": clean(text, _MESSAGE_LIMIT)}
        return json.dumps({"time": moment, **fields}, ensure_ascii=False)


def set_up_logging() -> None:
    """Send the operator's own log to stderr, and of everybody else's what is at least a warning."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("unimrg_operator").setLevel(logging.INFO)


def log_decision(job: ObservedJob, after: JobStatus, actions: Sequence[Action]) -> None:
    """Write a line about a decision if it does something; progress alone is none."""
    before = job.status
    changed = [stage for stage in after.stages if _essence(stage) != _essence(before.stage(stage.name))]
    if not actions and not changed and (before.phase, before.reason) == (after.phase, after.reason):
        return
    fields = {
        "job": f"{job.namespace}/{job.name}",
        "uid": job.uid,
        "attempt": after.attempt,
        "stages": [f"{stage.name}-{stage.attempt} {stage.state}" for stage in changed],
        "from": before.phase,
        "to": after.phase,
        "reason": after.reason,
        "actions": [_shown(action) for action in actions],
    }
    decisions.info("decision", extra={"decision": fields})


def _shown(action: Action) -> str:
    name = f"{action.stage}-{action.attempt}" if isinstance(action, CreateChild) else action.name
    return f"{type(action).__name__} {name}"


def _essence(stage: StageStatus) -> tuple[Any, ...]:
    return stage.state, stage.attempt, stage.attempt_end
