"""Runs the `unimrg` command within the test's process, with its exit code and both outputs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *texts: str) -> None:
        """Assert that the command ended with this code and a message that holds all of `texts`."""
        assert self.code == code, self.err
        for text in texts:
            assert text in self.err
        assert code == 70 or "Traceback" not in self.err


Unimrg = Callable[..., Ended]


@contextmanager
def piped(text: str) -> Iterator[Path]:
    """Give a path from which a text can be read once, as a shell's `<(…)` does."""
    reader, writer = os.pipe()
    try:
        os.write(writer, text.encode())
        os.close(writer)
        yield Path(f"/dev/fd/{reader}")
    finally:
        os.close(reader)


@pytest.fixture
def unimrg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Unimrg:
    """Return a function that runs `unimrg` with the given arguments."""
    from unimrg_cli.main import main

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["unimrg", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return Ended(code or 0, out, err)

    return run
