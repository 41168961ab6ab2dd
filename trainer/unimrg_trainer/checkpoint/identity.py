"""Which training a prefix belongs to, and how often it was started: objects that are written once."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from unimrg_api.digests import canonical_json
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.storage.base import NotFound, ObjectStore, StorageError, put_once

JOB_KEY = "job.json"
_ATTEMPT = re.compile(r"attempts/(\d{1,9})\.json")
_ATTEMPT_KEY = "attempts/{}.json"


def claim_identity(store: ObjectStore, uid: str | None, digest: str) -> str:
    """Make the prefix this training's, or find that it is already; return the uid that it is known by.

    `digest` says what makes it the same training. The uid given first counts for ever; None or "" draws one. Raises
    UserError: CONFIGURATION if the prefix belongs to another training, DATA_CORRUPT if job.json is unreadable.
    """
    own = {"uid": uid or uuid.uuid4().hex, "digest": digest}
    if put_once(store, JOB_KEY, canonical_json(own).encode()):
        return own["uid"]
    held = _read_job(store)
    if held["digest"] != digest:
        raise UserError(
            f"{store.uri} belongs to another training: its job has digest {held['digest']}, this one {digest}",
            remedy="give this job a spec.checkpoint.uri of its own; a training is the same if its model,"
            " data, objectives, batch, optimizer, schedule, precision and seed are",
        )
    return held["uid"]


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


def _read_job(store: ObjectStore) -> dict[str, str]:
    try:
        value: Any = json.loads(store.get(JOB_KEY))
        held = {"uid": value["uid"], "digest": value["digest"]}
    except NotFound as error:
        raise StorageError(f"{store.uri}/{JOB_KEY} was deleted while it was being read") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(store) from error
    if not all(isinstance(one, str) and one for one in held.values()):
        raise _unreadable(store)
    return held


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
