"""Objects that the API server does not take: quota, LimitRange, Pod Security, webhooks, missing rights or accounts.

The same texts come as the answer to the operator's own request, and in events of a controller that makes pods.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from unimrg_api.job import UniMRGJob
from unimrg_api.stages import Stage
from unimrg_operator.core.trouble.finding import Finding, Trouble, last_cause, shorten, size_field

Match = re.Match[str]

_QUOTA = re.compile(r"exceeded quota: (\S+), requested: (.+?), used: (.+?), limited: (.+?)\.?$")
_QUOTA_WANTS = re.compile(r"failed quota: (\S+): must specify (.+?)\.?$")
_LIMIT = re.compile(r"(maximum|minimum) (\S+) usage per (\w+) is (\S+?), but (?:limit|request) is (\S+?)[.,]?(?:\s|$)")
_POD_SECURITY = re.compile(r'violates PodSecurity "([^"]+)": (.+)$')
_ACCOUNT = re.compile(r'serviceaccount "([^"]+)" not found')
_PRIORITY = re.compile(r"no PriorityClass with name (\S+) was found")
_TERMINATING = re.compile(r"create new content in namespace (\S+) because it is being terminated")
_DENIED = re.compile(r'admission webhook "([^"]+)" denied the request: (.+)$')
_WEBHOOK = re.compile(r'failed calling webhook "([^"]+)": (.+)$')
_RIGHT = re.compile(r'cannot (\w+) resource "([^"]+)" in API group "([^"]*)"')
_REFUSED = re.compile(r"^(?:FailedCreate\w*): (?:Error creating: )?(.+)$")


def refusal(text: str, definition: Stage, job: UniMRGJob) -> Finding | None:
    """Return what an API server's refusal means; None for one that is not known."""
    line = " ".join(text.split())
    for pattern, meaning in _MEANINGS:
        if match := pattern.search(line):
            return meaning(match, definition, job)
    return None


def refused_pods(warnings: tuple[str, ...], child: str, definition: Stage, job: UniMRGJob) -> Finding | None:
    """Return why a child's controller cannot make its pods, as events about the child tell; None where none does."""
    refusals = [match[1] for warning in warnings if (match := _REFUSED.search(" ".join(warning.split())))]
    for text in refusals:
        if found := refusal(text, definition, job):
            return found
    if not refusals:
        return None
    cause = f"the pods of {child} cannot be made: {shorten(last_cause(refusals[0]), 110)}"
    return Finding(Trouble.PODS_REFUSED, cause, "correct what it names; kubectl get events shows more")


def refused_child(text: str, child: str, definition: Stage, job: UniMRGJob, *, answers: bool) -> Finding:
    """Return why the API server does not take a child; `answers` is False where it says that it cannot just now."""
    if found := refusal(text, definition, job):
        return found
    what = shorten(text, 120)
    if answers:
        remedy = "correct what it names; it is tried again every 30 s"
        return Finding(Trouble.CHILD_REFUSED, f"the API server refuses {child}: {what}", remedy)
    remedy = "as a rule a webhook of the controller of its kind is down; it is tried again every 30 s"
    return Finding(Trouble.BACKEND_UNAVAILABLE, f"the API server cannot make {child} now: {what}", remedy)


def _quota(match: Match, definition: Stage, job: UniMRGJob) -> Finding:
    name, requested, used, limited = (shorten(text, 40) for text in match.groups())
    cause = f"ResourceQuota {name} is used up: asked for {requested}, used {used}, allowed {limited}"
    return Finding(Trouble.QUOTA_EXCEEDED, cause, "wait until other jobs end, ask for less, or have the quota raised")


def _limit(match: Match, definition: Stage, job: UniMRGJob) -> Finding:
    bound, resource, what, allowed, asked = match.groups()
    field = f"{size_field(definition, job)}.{resource}" if resource in ("cpu", "memory") else "spec.trainer.gpusPerNode"
    most = "at most" if bound == "maximum" else "at least"
    cause = f"a LimitRange allows {most} {allowed} of {resource} per {what.lower()}, and {field} is {asked}"
    change = "lower" if bound == "maximum" else "raise"
    return Finding(Trouble.LIMIT_RANGE, cause, f"{change} it (resources: site profile), or have the LimitRange changed")


def _pod_security(match: Match, definition: Stage, job: UniMRGJob) -> Finding:
    controls = ", ".join(part.split(" (")[0] for part in re.split(r"\), ", match[2]))
    cause = f'the namespace enforces Pod Security "{match[1]}", which forbids: {controls}'
    remedy = "find what adds that to pods (site profile, a webhook), or have the level of the namespace lowered"
    return Finding(Trouble.POD_SECURITY, cause, remedy)


def _denied(match: Match, definition: Stage, job: UniMRGJob) -> Finding:
    cause = f"admission webhook {match[1]} refuses it: {shorten(match[2], 90)}"
    return Finding(Trouble.PODS_REFUSED, cause, "change what it names, or ask who runs the webhook")


def _webhook(match: Match, definition: Stage, job: UniMRGJob) -> Finding:
    cause = f"webhook {match[1]} does not answer: {shorten(last_cause(match[2]), 60)}"
    remedy = "check that the pods of its controller run (Training Operator, JobSet, Kueue); it is tried again"
    return Finding(Trouble.BACKEND_UNAVAILABLE, cause, remedy)


def _right(match: Match, definition: Stage, job: UniMRGJob) -> Finding:
    kind = f"{match[2]}.{match[3]}" if match[3] else match[2]
    cause = f"the operator has no right to {match[1]} {kind} in this namespace"
    return Finding(
        Trouble.RIGHT_MISSING,
        cause,
        "add the namespace to watchNamespaces of the chart, or bind the Role of manifests/namespace there",
    )


def _said(trouble: Trouble, cause: str, remedy: str) -> Callable[[Match, Stage, UniMRGJob], Finding]:
    """Return the meaning of a text of which only the groups of its pattern vary: `\\1` in `cause` is the first."""
    return lambda match, definition, job: Finding(trouble, match.expand(cause), remedy)


_MEANINGS: tuple[tuple[re.Pattern[str], Callable[[Match, Stage, UniMRGJob], Finding]], ...] = (
    (_QUOTA, _quota),
    (
        _QUOTA_WANTS,
        _said(
            Trouble.QUOTA_EXCEEDED,
            r"ResourceQuota \1 counts what these pods do not set: \2",
            "take that out of the quota, or give it a default by a LimitRange",
        ),
    ),
    (_LIMIT, _limit),
    (_POD_SECURITY, _pod_security),
    (
        _ACCOUNT,
        _said(
            Trouble.SERVICE_ACCOUNT_MISSING,
            r'ServiceAccount "\1" does not exist',
            "create it in the job's namespace, or correct spec.trainer.serviceAccountName",
        ),
    ),
    (
        _PRIORITY,
        _said(
            Trouble.PRIORITY_CLASS_MISSING,
            r'PriorityClass "\1" does not exist',
            "create it, or correct priorityClassName in the site profile",
        ),
    ),
    (
        _TERMINATING,
        _said(
            Trouble.NAMESPACE_TERMINATING,
            r"namespace \1 is being deleted, and nothing new starts in it",
            "create the job in another namespace",
        ),
    ),
    (_DENIED, _denied),
    (_WEBHOOK, _webhook),
    (_RIGHT, _right),
)
