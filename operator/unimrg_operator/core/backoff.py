"""The pause before a restart: it doubles with every failure in a row without a new checkpoint."""

from __future__ import annotations

from unimrg_api import texts
from unimrg_api.spec_platform import RunPolicySpec
from unimrg_api.status import RestartCounters, StageStatus


def backoff(counters: RestartCounters, policy: RunPolicySpec) -> float:
    """Return the seconds between the last failed attempt and the next."""
    return texts.backoff(policy.backoff_seconds, policy.max_backoff_seconds, counters.consecutive_failures)


def pause_after(stage: StageStatus, policy: RunPolicySpec) -> float:
    """Return the seconds between the end of a stage's newest attempt and the next; none after a suspension."""
    suspended = stage.attempt_end is not None and stage.attempt_end.action == "Suspend"
    return 0.0 if suspended else backoff(stage.restart_counters, policy)
