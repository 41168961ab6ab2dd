"""Keeps secrets out of what is tracked: a parameter is judged by its name, every text by its content."""

from __future__ import annotations

import re
from collections.abc import Mapping

from unimrg_api.redaction import REDACTED, redact

_SECRET_NAME = re.compile(
    r"(?i:secret|passw(or)?d|passphrase|credential|authorization|(api|access|private)[_-]?key)"
    r"|(^|[^a-z])(?i:token)$|[a-z]Token$"
)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")


def redacted(values: Mapping[str, object]) -> dict[str, str]:
    """Return the values as text, without what is secret.

    A name counts as a secret's if it says so (`…password`, `…secret…`, `…accessKey`, a name that ends in the
    word `token`); `tokens_per_s` or `tokenizer` do not.
    """
    return {name: REDACTED if _SECRET_NAME.search(name) else redact(str(value)) for name, value in values.items()}


def without_user_info(uri: str) -> str:
    """Return an address without user name and password, fit to be opened in a browser."""
    return _USER_INFO.sub("", uri)
