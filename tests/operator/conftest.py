"""Fixtures of the operator's tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.operator.scripted_api import ScriptedApi, scripted_api


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    """A server that answers what the test wrote down."""
    with scripted_api() as server:
        yield server


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The operator's `main` configures the root logger; the next test has its own streams."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
