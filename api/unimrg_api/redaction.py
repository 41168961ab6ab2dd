"""Makes text from anywhere fit to be shown: no control characters, nothing that looks like a key, not too long."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

REDACTED = "[redacted]"

LOOKED_AT = 32_768
"""Characters at each end of a text that are looked at, where it is to be shortened anyway."""

_ESCAPE_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# Repetitions are bounded, and no pattern begins with one: texts of unknown length and origin pass through here.
_NAMED = re.compile(
    r"""(?ix)
    (?P<name>(?:passw(?:or)?d|passphrase|secret|api[_-]?key|access[_-]?key|private[_-]?key|
        credentials?|signature|token(?![\w-]))[\w-]{0,40}["']?\s{0,8}[:=]\s{0,8})
    (?P<quote>["']?)(?!\[redacted\])(?P<value>[^\s"',;&}\]]{4,})
    """
)
_HEADER = re.compile(
    r"""(?x)
    (?i:\b(?:authorization\s{0,8}[:=]\s{0,8})\S+(?:\s+[^\s,;"']+)? | \bbearer\s{1,8}[\w.~+/=-]{8,})
    | \b[Bb]asic\s{1,8}(?=[A-Za-z+/]{0,200}(?:[0-9=]|[a-z][A-Z]))[A-Za-z0-9+/]{8,1024}={0,2}
    """
)
_URL_PASSWORD = re.compile(r"(://)[^\s/@]{1,1024}@")
_KNOWN_SHAPES = re.compile(
    r"""(?x)
    \b(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{12,}
    | \b(?:hf|ghp|gho|ghu|ghs|ghr|glpat|npm|pypi|sk|xox[abpr])[_-][0-9A-Za-z_-]{16,}
    | \bgithub_pat_[0-9A-Za-z_]{20,}
    | \beyJ[0-9A-Za-z_-]{8,2048}\.[0-9A-Za-z_-]{8,4096}(?:\.[0-9A-Za-z_-]*)?
    | -----BEGIN\ [A-Z ]{0,30}PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]{0,30}PRIVATE\ KEY-----|\Z)
    """,
    re.DOTALL,
)
# The form of an AWS secret key: 40 characters of base64. Digests (hexadecimal) do not match.
_SECRET_KEY = re.compile(
    r"(?<![A-Za-z0-9/+=._-])(?=[A-Za-z0-9/+]*[a-z])(?=[A-Za-z0-9/+]*[A-Z])(?=[A-Za-z0-9/+]*[0-9])"
    r"[A-Za-z0-9+][A-Za-z0-9/+]{39}(?![A-Za-z0-9/+=._-])"
)


def redact(text: str) -> str:
    """Replace what looks like a key, password, token or URL with a password in it."""
    text = _KNOWN_SHAPES.sub(REDACTED, text)
    text = _HEADER.sub(REDACTED, text)
    text = _URL_PASSWORD.sub(lambda match: f"{match[1]}{REDACTED}@", text)
    text = _NAMED.sub(lambda match: f"{match['name']}{match['quote']}{REDACTED}", text)
    return _SECRET_KEY.sub(REDACTED, text)


def redact_values(value: Any, path: tuple[str, ...] = ()) -> Any:
    """Return JSON values without what looks like a key, by itself or by a name above it.

    Below a name that says so (`password`, `apiKey`, `auth`, `credentials`) everything is replaced, whatever its type;
    `path` has the names that lead to `value`. Names may be dotted paths, as those of parameters are. Only the
    `secretName` of `credentials` stays: it says where a cluster keeps the secret.
    """
    if isinstance(value, Mapping):
        return {redact(str(name)): redact_values(item, (*path, *str(name).split("."))) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item, path) for item in value]
    public = path[:-2] if path[-2:] == ("credentials", "secretName") and isinstance(value, str) else path
    if any(_is_secret(name) for name in public):
        return REDACTED
    return redact(value) if isinstance(value, str) else value


@lru_cache(4096)
def _is_secret(name: str) -> bool:
    return name.lower().endswith(("auth", "authorization")) or redact(f"{name}: value") != f"{name}: value"


def clean(text: str, limit: int | None = None) -> str:
    """Return `text` without terminal escapes and control characters, redacted, at most `limit` characters long.

    Line breaks and tabs stay. Redaction comes before shortening, for half a key would not be recognised any more;
    of a text that is much too long only the ends are looked at.
    """
    if limit is not None and len(text) > 2 * LOOKED_AT:
        text = f"{text[:LOOKED_AT]} … {text[-LOOKED_AT:]}"
    text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates
    text = _CONTROL.sub("", _ESCAPE_SEQUENCES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    text = redact(text)
    return text if limit is None else shorten(text, limit)


def shorten(text: str, limit: int) -> str:
    """Return `text`, at most `limit` characters long.

    The middle is cut out, for the beginning says what happened and the end often why.
    """
    if len(text) <= limit:
        return text
    if limit < 16:
        return text[:limit]
    head = (limit - 3) * 2 // 3
    return f"{text[:head]} … {text[len(text) - (limit - 3 - head) :]}"
