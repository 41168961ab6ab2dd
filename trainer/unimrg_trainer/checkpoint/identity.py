"""Which training a prefix belongs to, and how often it was started: objects that are written once."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from unimrg_api.digests import canonical_json, sha256_of
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_api.redaction import redact_values
from unimrg_api.spec_model import ModelSpec
from unimrg_trainer.storage.base import NotFound, ObjectStore, StorageError, put_once

JOB_KEY = "job.json"
NAMED = 10
"""Fields that a refusal names."""
_ATTEMPT = re.compile(r"attempts/(\d{1,9})\.json")
_ATTEMPT_KEY = "attempts/{}.json"


def claim_identity(store: ObjectStore, uid: str | None, training: Mapping[str, Any]) -> str:
    """Make the prefix this training's, or find that it is already; return the uid that it is known by.

    `training` is what makes two jobs the same training (`UniMRGJob.trained_values`). The uid given first counts for
    ever; None or "" draws one. Raises UserError: CONFIGURATION if the prefix belongs to another training, with the
    fields that differ; DATA_CORRUPT if job.json is unreadable.
    """
    own = {"uid": uid or uuid.uuid4().hex, "digest": sha256_of(training), "training": redact_values(training)}
    if put_once(store, JOB_KEY, canonical_json(own).encode()):
        return str(own["uid"])
    held = _read_job(store)
    if held["digest"] != own["digest"]:
        raise UserError(
            f"{store.uri} belongs to another training: {_differences(held, own)}",
            remedy="give this job a spec.checkpoint.uri of its own, or the values that the training began with",
        )
    return str(held["uid"])


def _differences(held: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Name the fields in which two trainings differ, with both values."""
    there, here = (
        {name: value for name, value in job_fields(one.get("training", {})) if value is not None} for one in (held, own)
    )
    different = [
        f"{name} is {_shown(there, name)} there and {_shown(here, name)} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if not different:
        return f"its job has digest {held['digest']}, this one {own['digest']}"
    more = f"; and {len(different) - NAMED} more" if len(different) > NAMED else ""
    return "; ".join(different[:NAMED]) + more


def job_fields(training: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield (field of the job, value) of everything in a training (`UniMRGJob.trained_values`)."""
    for name, value in training.items():
        if name == "data":
            yield "the digest of the data", value
        elif name == "model":
            family = value.get("family")
            yield "the family of spec.model", family
            yield "spec.model.init", value.get("init")
            place = family if family in ModelSpec.members else "custom.settings"
            yield from _flat(f"spec.model.{place}", value.get("settings", {}))
        elif name == "objectives":
            yield from ((f"spec.objectives[{one}].weight", weight) for one, weight in value.items())
        elif name == "parts":
            yield from ((f"spec.training.parts[{one}].learningRateScale", scale) for one, scale in value.items())
        elif name == "stages":
            yield from _flat("spec.stages", value)
        elif name == "guard":  # empty: no spikes
            yield from zip(
                ("spec.training.guard.spikeThreshold", "spec.training.guard.spikeWindow"), value, strict=False
            )
        else:
            yield from _flat(f"spec.training.{name}", value)


def _flat(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(f"{path}.{name}", item)
    else:
        yield path, value


def _shown(values: Mapping[str, object], name: str) -> str:
    return canonical_json(values[name]) if name in values else "absent"


def claim_attempt(store: ObjectStore, start: str | None = None, wish: int = 1) -> int:
    """Number this start of the training; the same start gets the same number, no other start ever does.

    `start` identifies it, e.g. by the uid of the job's object and the attempt counted there, so that all its pods agree
    without talking to each other; None: a start of its own. The number is the next free one, at least `wish`.
    """
    start = start or uuid.uuid4().hex
    numbers = attempt_numbers(store)  # once: a second listing could hold the number of another pod of this start
    known = _find(store, numbers, start)
    if known is not None:
        return known
    content = canonical_json({"start": start}).encode()  # the same for all its pods
    number = max([wish - 1, *numbers]) + 1
    while not put_once(store, _ATTEMPT_KEY.format(number), content):
        number += 1
    return number


def find_attempt(store: ObjectStore, start: str) -> int | None:
    """Return the number that a start has, None if it has none yet."""
    return _find(store, attempt_numbers(store), start)


def _find(store: ObjectStore, numbers: list[int], start: str) -> int | None:
    return next((number for number in sorted(numbers, reverse=True) if _start_of(store, number) == start), None)


def attempt_numbers(store: ObjectStore) -> list[int]:
    """Return the numbers of all starts of the training under a prefix, in no order."""
    return [int(match[1]) for key, _ in store.list("attempts/") if (match := _ATTEMPT.fullmatch(key))]


def _start_of(store: ObjectStore, number: int) -> str | None:
    try:
        content = json.loads(store.get(_ATTEMPT_KEY.format(number)))
    except (NotFound, ValueError):
        return None
    return content.get("start") if isinstance(content, dict) else None


def _read_job(store: ObjectStore) -> dict[str, Any]:
    try:
        held: Any = json.loads(store.get(JOB_KEY))
        texts = [held["uid"], held["digest"]]
    except NotFound as error:
        raise StorageError(f"{store.uri}/{JOB_KEY} was deleted while it was being read") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(store) from error
    if not all(isinstance(one, str) and one for one in texts):
        raise _unreadable(store)
    return dict(held)


def _unreadable(store: ObjectStore) -> UserError:
    return UserError(
        f"{store.uri}/{JOB_KEY} does not say which training the prefix belongs to",
        remedy="restore the object, or choose another spec.checkpoint.uri",
        exit_code=ExitCode.DATA_CORRUPT,
    )


def check_resume(policy: str, uri: str, step: int) -> None:
    """Raise UserError where `spec.checkpoint.resume` excludes what is under the prefix; `step` 0: no checkpoint.

    `Never` on a prefix that holds checkpoints is 64, `Required` on one that holds none 66.
    """
    if policy == "Never" and step:
        raise UserError(
            f"spec.checkpoint.resume is Never, and {uri} holds checkpoints of this training up to step {step}",
            remedy="give another spec.checkpoint.uri, or set resume: IfPresent",
        )
    if policy == "Required" and not step:
        raise UserError(
            f"spec.checkpoint.resume is Required, and {uri} holds no checkpoint",
            remedy="give the prefix of a run that has checkpoints, or set resume: IfPresent",
            exit_code=ExitCode.INPUT_MISSING,
        )
