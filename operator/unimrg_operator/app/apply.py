"""Carries out a decision: the status first, then the actions in their order, then the events.

An end, or the number of an attempt, is written before anything is done about it. So after a crash anywhere in
between the next pass sees what was decided and finds whatever was already done by its name.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unimrg_api import cluster
from unimrg_api.errors import UserError
from unimrg_api.job import KIND
from unimrg_api.redaction import clean
from unimrg_api.stages import STAGES, VALIDATION
from unimrg_api.status import TEXT_LIMIT, JobStatus
from unimrg_operator.app.first_seen import FirstSeen
from unimrg_operator.app.observe import is_pod_of, observe_pod
from unimrg_operator.app.world import JOBS, PODS
from unimrg_operator.backends.base import Attempt, Manifest, Resource
from unimrg_operator.backends.children import child_name
from unimrg_operator.backends.objects import dicts_of, dig, owner_of, text_of
from unimrg_operator.backends.registry import SiteBackends
from unimrg_operator.core.decide import CREATION_RETRY_SECONDS
from unimrg_operator.core.decision import CreateChild, Decision, DeleteChild, DeletePod, Event
from unimrg_operator.core.lookup import is_alive
from unimrg_operator.core.observation import Observation, ObservedJob
from unimrg_operator.core.trouble.finding import Finding, Trouble
from unimrg_operator.core.trouble.refusals import refused_child
from unimrg_operator.kube.client import Client, Object
from unimrg_operator.kube.errors import AlreadyExists, Conflict, Forbidden, NotFound, Refused, Unavailable

NAMESAKE_SECONDS = 2.0
"""How long to wait for an object of a child's name that is on its way out."""
PATIENCE_SECONDS = 60.0
"""After so long an object that is on its way out is reported: something holds it."""
STALE_SECONDS = 2.0
"""How long to wait for the cache to show a pod that lives."""

CreationError = tuple[str, str]
"""Why a child cannot be made, as (reason, message)."""
Hindrance = CreationError | float | None
"""What keeps a child from being made: an error, or somebody to wait for, for so many seconds."""


@dataclass(frozen=True)
class Outcome:
    """What came of a decision."""

    conflict: bool = False
    """The job has changed meanwhile or is gone: nothing was done."""
    wrote_status: bool = False
    creation_error: CreationError | None = None
    retry_after: float | None = None
    """Seconds after which an action is to be tried again that has to wait for somebody else."""


class Applier:
    """Carries out decisions. Raises ApiError where an API server fails; then everything is to be decided again."""

    def __init__(
        self,
        client: Client,
        backends: SiteBackends,
        publish: Callable[[ObservedJob, Event], object],
        written: Callable[[tuple[str, str], str, Object], None],
        created: Callable[[Resource, str, Object], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`publish` is called with each event of a decision.

        `written` is called with the job as the API server returned it and the version that it replaced.

        `created` is called with a child as the API server has it, its kind and its namespace.
        """
        self._client = client
        self._backends = backends
        self._publish = publish
        self._written = written
        self._created = created
        self._clock = clock
        self._going = FirstSeen()

    def apply(self, item: Object, observation: Observation, decision: Decision) -> Outcome:
        """Carry out what was decided about the UniMRGJob `item`."""
        job = observation.job
        patch = difference(item.get("status") or {}, status_object(decision.status))
        if patch:
            version = item["metadata"]["resourceVersion"]
            try:
                written = self._client.patch_status(JOBS, job.namespace, job.name, patch, resource_version=version)
            except (Conflict, NotFound):
                return Outcome(conflict=True)
            self._written((job.namespace, job.name), version, written)
        try:
            hindrance = self._act(observation, decision)
        finally:  # the status says it, so it has happened, whatever came of the actions
            for event in decision.events:
                self._publish(job, event)
        if isinstance(hindrance, float):
            return Outcome(wrote_status=bool(patch), retry_after=hindrance)
        return Outcome(wrote_status=bool(patch), creation_error=hindrance)

    def _act(self, observation: Observation, decision: Decision) -> Hindrance:
        """Carry out the actions up to the first that cannot be."""
        namespace = observation.job.namespace
        for action in decision.actions:
            match action:
                case CreateChild():
                    if (hindrance := self.create(observation, action)) is not None:
                        return hindrance
                case DeleteChild():
                    self._delete(self._kind_of(observation, action), namespace, action.name, action.uid)
                case DeletePod():
                    self._delete(PODS, namespace, action.name, action.uid, grace_seconds=0)
        return None

    def create(self, observation: Observation, action: CreateChild) -> Hindrance:
        """Create a child; one that is ours and exists is as good."""
        job = observation.job
        assert job.parsed is not None, "a child was decided for a job that does not parse"
        attempt = Attempt(
            job=job.parsed,
            namespace=job.namespace,
            uid=job.uid,
            stage=action.stage,
            number=action.attempt,
            train_attempt=action.train_attempt,
            restart_counters=action.restart_counters,
        )
        try:
            manifest = self._backends.render(attempt)
        except UserError as error:
            return _creation_error("RenderError", str(error))
        resource, name = self._backends.resource(action.stage, job.parsed), child_name(attempt)
        if (action.stage, action.attempt) != (VALIDATION, 1) and self._is_alive_unseen(observation):
            return STALE_SECONDS
        try:
            made = self._client.create(resource, job.namespace, manifest)
        except AlreadyExists:
            return self._claim(resource, job, manifest)
        except NotFound as error:
            if not error.kind_missing:
                raise
            return backend_missing(resource)
        except (Forbidden, Refused, Unavailable) as error:
            if not error.status:
                raise  # no answer came: the API server is away, or has done it
            answers = not isinstance(error, Unavailable)
            finding = refused_child(error.message, name, STAGES[action.stage], job.parsed, answers=answers)
            return _creation_error(finding.reason, finding.message)
        self._created(resource, job.namespace, made)
        return None

    def _is_alive_unseen(self, observation: Observation) -> bool:
        """Whether the API server knows of a live pod of this job, none of which was observed.

        Two attempts must never be alive at once, and a cache may be behind.
        """
        job = observation.job
        child_uids = {child.uid for child in observation.children}
        pages = self._client.pages(PODS, job.namespace, label_selector=f"{cluster.JOB_LABEL}={job.name}")
        pods = (dict(item) for page in pages for item in dicts_of(page, "items"))
        return any(is_pod_of(pod, job.uid, child_uids) and is_alive(observe_pod(pod)) for pod in pods)

    def _claim(self, resource: Resource, job: ObservedJob, manifest: Manifest) -> Hindrance:
        """An object has the child's name: ours from before a crash, one that is going, or a stranger's."""
        name = str(manifest["metadata"]["name"])
        try:
            present = self._client.get(resource, job.namespace, name)
        except NotFound:
            return NAMESAKE_SECONDS
        if dig(present, "metadata", "deletionTimestamp"):
            return self._wait_for(present, f"{resource.kind} {name} is still being deleted")
        owner = owner_of(present)
        if text_of(owner, "uid") == job.uid:
            if _digest_of(present) == _digest_of(manifest):
                self._created(resource, job.namespace, present)
                return None
            return _creation_error("NameConflict", f"{resource.kind} {name} was made from another spec of this job")
        if text_of(owner, "kind") == KIND and text_of(owner, "name") == text_of(owner_of(manifest), "name"):
            # The garbage collector is on its way.
            return self._wait_for(present, f"{resource.kind} {name} of an earlier job of this name is still there")
        message = f"{resource.kind} {name} exists and does not belong to this job; delete it or rename the job"
        return _creation_error("NameConflict", message)

    def _wait_for(self, namesake: Object, message: str) -> Hindrance:
        """Give an object that should go some time before it is reported."""
        now = self._clock()
        if now - self._going.of(text_of(dig(namesake, "metadata"), "uid"), now) <= PATIENCE_SECONDS:
            return NAMESAKE_SECONDS
        return _creation_error("NameConflict", message)

    def _kind_of(self, observation: Observation, action: DeleteChild) -> Resource:
        """Return the kind of a child: what it is may be known where the job's spec cannot be read."""
        kind = next((child.kind for child in observation.children if child.uid == action.uid), "")
        known = (resource for resource in self._backends.resources() if resource.kind_key == kind)
        return next(known, self._backends.resource(action.stage, observation.job.parsed))

    def _delete(
        self, resource: Resource, namespace: str, name: str, uid: str, grace_seconds: int | None = None
    ) -> None:
        with contextlib.suppress(NotFound, Conflict):  # it is gone, or another object has its name
            self._client.delete(resource, namespace, name, uid=uid, grace_seconds=grace_seconds)


def status_object(status: JobStatus) -> Object:
    """Return a status as the API server stores it: without what is not set, and of a stage without zeros."""
    stored = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    stages = [stage.model_dump(mode="json", by_alias=True, exclude_defaults=True) for stage in status.stages]
    named = [{**shown, "state": stage.state} for stage, shown in zip(status.stages, stages, strict=True)]
    return {**stored, "stages": named}


def difference(before: Any, after: Object) -> Object:
    """Return the merge patch that turns `before` into `after`; empty where they are equal."""
    present = before if isinstance(before, dict) else {}
    patch: Object = {key: None for key in present if key not in after}
    for key, value in after.items():
        if isinstance(value, dict) and isinstance(present.get(key), dict):
            inner = difference(present[key], value)
            if inner:
                patch[key] = inner
        elif key not in present or present[key] != value:
            patch[key] = value
    return patch


def backend_missing(resource: Resource) -> CreationError:
    """Return the error of a cluster that does not know a kind of child."""
    kind = f"{resource.kind} ({resource.group}/{resource.version})"
    cause = f"this cluster does not know {kind}"
    remedy = f"install its controller with its CRD; it is looked for every {CREATION_RETRY_SECONDS} s"
    finding = Finding(Trouble.BACKEND_MISSING, cause, remedy)
    return _creation_error(finding.reason, finding.message)


def _creation_error(reason: str, message: str) -> CreationError:
    return reason, clean(message, TEXT_LIMIT)


def _digest_of(item: Object) -> str:
    return text_of(dig(item, "metadata", "annotations"), cluster.SPEC_DIGEST_ANNOTATION)
