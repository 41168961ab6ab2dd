"""What a job may call a place in an object store, the store takes: nothing is found out only once the job runs."""

from __future__ import annotations

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from unimrg_api.fields import Uri
from unimrg_trainer.storage import open_store

URI: TypeAdapter[str] = TypeAdapter(Uri)
PIECES = ["/", "/", ".", "a", "ü" * 100, "%2e", "%2F", "\\", "\x7f", "\x1f", " ", "\x85", "\u2028", "\ud800", "?", "#"]
KEYS = st.text(max_size=30) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@settings(max_examples=400)
@given(KEYS)
@example("a//b")
@example("/a")
@example("a/.")
@example("../a")
@example("a\\b")
@example("a\x7fb")
@example("/".join(["ü" * 120] * 5))
@example("a/")
@example("a//")
def test_a_store_takes_every_address_that_a_job_may_hold(key: str) -> None:
    uri = f"s3://bucket/{key}"
    try:
        URI.validate_python(uri, strict=True)
    except ValidationError:
        assume(False)
    assert open_store(uri).uri == uri.rstrip("/")
