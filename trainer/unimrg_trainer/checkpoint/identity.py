"""Which training a prefix belongs to, and how often it was started: objects that are written once."""

from __future__ import annotations

import datetime
import json
import os
import re
import uuid
from typing import Any

from unimrg_api.digests import canonical_json
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.checkpoint.agreement import CheckpointError
from unimrg_trainer.storage.base import NotFound, ObjectStore, StorageError, put_once

JOB = "job.json"
_ATTEMPT = re.compile(r"attempts/(\d{1,9})\.json")
_ATTEMPT_KEY = "attempts/{}.json"


def claim_identity(store: ObjectStore, uid: str | None, digest: str) -> str:
    """Make the prefix this training's, or find that it is already; return the uid that it is known by.

    `digest` says what makes it the same training. The uid given first counts for ever; None or "" draws
    one. Raises UserError: CONFIGURATION if the prefix belongs to another training, DATA_CORRUPT if job.json
    is unreadable.
    """
    own = {"uid": uid or uuid.uuid4().hex, "digest": digest}
    if put_once(store, JOB, canonical_json(own).encode()):
        return own["uid"]
    held = _read_job(store)
    if held["digest"] != digest:
        raise UserError(
            f"{store.uri} belongs to another training: its job has digest {held['digest']}, this one {digest}",
            remedy="give this job a spec.checkpoint.uri of its own; a training is the same if its model,"
            " data, objectives, batch, optimizer, schedule, precision and seed are",
        )
    return held["uid"]


def claim_attempt(store: ObjectStore, wanted: int | None) -> int:
    """Number this start of the job, from 1: `wanted`, or the next free one if None. No number is given twice.

    Raises CheckpointError (UNAVAILABLE) if `wanted` is taken.
    """
    content = canonical_json(
        {
            "claim": uuid.uuid4().hex,
            "created": datetime.datetime.now(datetime.UTC).isoformat(),
            "pid": os.getpid(),
        }
    ).encode()
    if wanted is not None:
        if not put_once(store, _ATTEMPT_KEY.format(wanted), content):
            raise CheckpointError(
                f"attempt {wanted} of {store.uri} was started before",
                remedy="start it with the next number, or without one",
            )
        return wanted
    number = max((n for n in map(_number, store.list("attempts/")) if n is not None), default=0) + 1
    while not put_once(store, _ATTEMPT_KEY.format(number), content):
        number += 1
    return number


def _number(listed: tuple[str, int]) -> int | None:
    match = _ATTEMPT.fullmatch(listed[0])
    return int(match[1]) if match else None


def _read_job(store: ObjectStore) -> dict[str, str]:
    try:
        value: Any = json.loads(store.get(JOB))
        held = {"uid": value["uid"], "digest": value["digest"]}
    except NotFound as error:
        raise StorageError(f"{store.uri}/{JOB} was deleted while it was being read") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(store) from error
    if not all(isinstance(one, str) and one for one in held.values()):
        raise _unreadable(store)
    return held


def _unreadable(store: ObjectStore) -> UserError:
    return UserError(
        f"{store.uri}/{JOB} does not say which training the prefix belongs to",
        remedy="restore the object, or choose another spec.checkpoint.uri",
        exit_code=ExitCode.DATA_CORRUPT,
    )
