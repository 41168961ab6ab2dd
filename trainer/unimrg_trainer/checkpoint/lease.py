"""One training at a time under a prefix: a lease that its holder renews, and that others take over when it is stale.

`lease/00000003.json` is the third lease. A new one is written on condition that it is absent, so of several starts one
gets it; the highest number counts. Only its holder writes it again, and finds by a listing when a higher one is there.
Whether a lease is stale is decided by the store's clock, or by the process table of the machine that both run on.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimrg_api.digests import canonical_json
from unimrg_api.errors import UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.storage.base import NotFound, ObjectStore, put_once

logger = logging.getLogger(__name__)

RENEW_SECONDS = 15.0
STALE_SECONDS = 90.0
"""Age from which a lease that was not renewed may be taken over: longer than an outage that the store room outlasts."""

_KEY = re.compile(r"lease/(\d{8})\.json")


class Lease:
    """A lease that this process holds, until `renew` says that it does not."""

    def __init__(self, store: ObjectStore, number: int, content: dict[str, Any]) -> None:
        self._store = store
        self._number = number
        self._content = content
        self._lock = threading.Lock()

    def renew(self) -> str | None:
        """Write the lease again; return who has taken it over, None if nobody has. Raises StorageError."""
        with self._lock:  # a renewal under way may not undo a release
            newest = max([self._number, *_numbers(self._store)])
            held = _read(self._store, newest)
            if held is None or held["token"] != self._content["token"]:
                return _described(held) if held else "another start"
            self._store.put(_key(self._number), canonical_json(self._content).encode())
            return None

    def release(self) -> None:
        """Let the next start have it at once. Raises StorageError."""
        self._content["released"] = True
        self.renew()


@dataclass(frozen=True)
class Holder:
    """Who holds the lease of a prefix; `age` is for how many seconds it was not renewed."""

    content: dict[str, Any]
    age: float

    def __str__(self) -> str:
        return f"{_described(self.content)}; renewed {self.age:.0f} s ago"

    @property
    def remedy(self) -> str:
        return f"if it was killed, try again in {max(1.0, STALE_SECONDS - self.age):.0f} s"


def holder(store: ObjectStore) -> Holder | None:
    """Return who trains under a prefix: the newest lease's holder, unless released, stale or seen to have ended."""
    newest = max(_numbers(store), default=0)
    content = _read(store, newest) if newest else None
    age = store.age(_key(newest)) if content else None
    if content is None or age is None or content["released"] or age > STALE_SECONDS:
        return None
    gone = content["machine"] == _machine() and content["started"] != _started(content["process"])
    return None if gone else Holder(content, age)


def acquire(store: ObjectStore, owner: str, attempt: int) -> Lease:
    """Take the lease of a prefix; raises UserError (UNAVAILABLE) if another training holds it.

    `owner` is the uid of the job's object, `attempt` the number of this start. A later attempt of the same job takes
    over at once, and so does a start on the machine where the holder's process has ended.
    """
    while True:
        numbers = _numbers(store)
        newest = max(numbers, default=0)
        held = holder(store)
        if held is not None and not (owner and held.content["owner"] == owner and held.content["attempt"] <= attempt):
            raise UserError(
                f"another training is using {store.uri}: {held}",
                remedy=f"stop it or wait for its end, or give this job a spec.checkpoint.uri of its own; {held.remedy}",
                exit_code=ExitCode.UNAVAILABLE,
            )
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        content = {
            **{"owner": owner, "attempt": attempt, "since": since, "token": uuid.uuid4().hex, "released": False},
            **{"host": socket.gethostname(), "machine": _machine(), "process": os.getpid()},
            "started": _started(os.getpid()),
        }
        if put_once(store, _key(newest + 1), canonical_json(content).encode()):
            if max(_numbers(store)) > newest + 1:  # others came and went since the listing, and the number was free
                store.delete(_key(newest + 1))
                continue
            for number in numbers:
                store.delete(_key(number))
            return Lease(store, newest + 1, content)


@contextmanager
def renewed(store: ObjectStore, owner: str, attempt: int, on_loss: Callable[[str], None]) -> Iterator[Lease]:
    """Take the lease; in the block a thread renews it, and calls `on_loss` with the taker if it was taken over.

    Raises like `acquire`. A store that is away ends nothing: others do not reach it either. The lease is not released
    at the end: a store that hangs may not keep back what comes first.
    """
    lease = acquire(store, owner, attempt)
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(RENEW_SECONDS):
            try:
                taker = lease.renew()
            except Exception as error:  # whatever it is: a lease that nobody renews any more is taken by others
                logger.warning("the lease could not be renewed: %s", error)
            else:
                if taker is not None:
                    on_loss(taker)
                    return

    threading.Thread(target=keep, name="lease", daemon=True).start()
    try:
        yield lease
    finally:
        ended.set()


def _described(lease: dict[str, Any]) -> str:
    return f"process {lease['process']} on {lease['host']}, attempt {lease['attempt']}, since {lease['since']}"


def _key(number: int) -> str:
    return f"lease/{number:08d}.json"


def _numbers(store: ObjectStore) -> list[int]:
    return [int(match[1]) for key, _ in store.list("lease/") if (match := _KEY.fullmatch(key))]


def _read(store: ObjectStore, number: int) -> dict[str, Any] | None:
    """Read a lease; None if it is gone, or is none of ours: then nobody holds it."""
    try:
        content = json.loads(store.get(_key(number)))
    except (NotFound, ValueError):
        return None
    fields: dict[str, type] = {"owner": str, "attempt": int, "since": str, "host": str, "machine": str, "process": int}
    fields |= {"started": int, "token": str, "released": bool}
    valid = isinstance(content, dict) and all(isinstance(content.get(name), kind) for name, kind in fields.items())
    return content if valid else None


def _machine() -> str:
    """What tells process numbers apart: the machine's boot and the namespace in which they count."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())


def _started(process: int) -> int | None:
    """When a process of this machine started, in clock ticks since its boot; None if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])  # one that nobody has waited for is dead all the same
    except (OSError, ValueError, IndexError):
        return None
