"""Settings of custom members are free text: what looks like a key is replaced wherever a job is shown or recorded."""

from __future__ import annotations

from typing import Any

import pytest

from unimrg_api.redaction import REDACTED, redact_values

KEY = "AKIA" + "ABCDEFGHIJKLMNOP"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"apiKey": 12345678}, {"apiKey": REDACTED}),
        (
            {"password": {"value": "hunter22", "days": [3, None]}},
            {"password": {"value": REDACTED, "days": [REDACTED] * 2}},
        ),
        ({"auth": "Basic dXNlcjpwYXNz", "basicAuth": "ada"}, {"auth": REDACTED, "basicAuth": REDACTED}),
        ({"header": "Basic dXNlcjpwYXNz"}, {"header": REDACTED}),
        ({"secretName": KEY}, {"secretName": REDACTED}),
        ({"secretName": "hunter22"}, {"secretName": REDACTED}),
        (
            {"credentials": {"secretName": "s3-keys", "user": "ada"}},
            {"credentials": {"secretName": "s3-keys", "user": REDACTED}},
        ),
        ({"credentials": {"secretName": KEY}}, {"credentials": {"secretName": REDACTED}}),
        (
            {"passwords": {"credentials": {"secretName": "hunter22"}}},
            {"passwords": {"credentials": {"secretName": REDACTED}}},
        ),
        ({"model.custom.password.value": 5}, {"model.custom.password.value": REDACTED}),
        ({"tracking.credentials.secretName": "s3-keys"}, {"tracking.credentials.secretName": "s3-keys"}),
        ({"list": ["see https://ada:hunter22@host/x", KEY]}, {"list": [f"see https://{REDACTED}@host/x", REDACTED]}),
        ({KEY: 1}, {REDACTED: REDACTED}),
        ({"tokenizer": "Basic evaluation", "maxTokens": 12, "author": "ada"},) * 2,
    ],
)
def test_keys_are_replaced_and_nothing_else(given: dict[str, Any], shown: dict[str, Any]) -> None:
    assert redact_values(given) == shown
