"""What an API server says when it refuses a job, as problems with the paths of the job.

The command line checks a job by itself before it is sent; what is left are rules of the cluster: its quotas, its
admission policies, a custom resource of another version. Pure: it reads the `Status` object of the reply.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from unimrg_api.errors import Problem
from unimrg_api.redaction import clean

MESSAGE_LIMIT = 1024
"""Characters of a message that are shown."""

_NOT_CHECKED = re.compile(
    "some validation rules were not checked|no such key: \\S+ evaluating rule: |Checked value must be of type"
)
"""Said about rules that were not asked because something else is wrong, or a second time about a wrong type."""
_STRICT = re.compile(r'(unknown|duplicate) field "((?:[^"\\]|\\.)*)"')


def problems_of(status: Mapping[str, Any]) -> list[Problem]:
    """Return what an API server finds wrong with a job; never an empty list.

    `status` is the reply's object of kind Status. A reply that is not about the job's fields (no permission, no
    such namespace) is one problem without a path.
    """
    text = str(status.get("message") or status.get("reason") or "the API server refused the job without a reason")
    found: list[tuple[str, str]] = []
    if status.get("reason") in ("Invalid", "BadRequest"):
        found = [(path, f"{kind} field on this cluster") for kind, path in _STRICT.findall(text)]
        details = status.get("details")
        causes = details.get("causes") if isinstance(details, Mapping) else None
        for cause in causes if isinstance(causes, list) else ():
            if isinstance(cause, Mapping) and not _NOT_CHECKED.search(str(cause.get("message"))):
                found.append((str(cause.get("field", "")).replace("<nil>", ""), str(cause.get("message"))))
    problems = [Problem(path, "", clean(message, MESSAGE_LIMIT)) for path, message in dict.fromkeys(found)]
    return problems or [Problem("", "", clean(text, MESSAGE_LIMIT))]
