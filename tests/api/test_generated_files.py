"""The files that follow from the models say what the models say."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimrg_api.generate import drifted, main

REPOSITORY = Path(__file__).parents[2]


def test_no_generated_file_has_drifted() -> None:
    assert drifted(REPOSITORY) == [], "run `python -m unimrg_api.generate`"


def test_what_was_changed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--verify"], tmp_path) == 2
    assert list(tmp_path.iterdir()) == []
    assert [main(arguments, tmp_path) for arguments in (["--check"], [], ["--check"])] == [1, 0, 0]
    capsys.readouterr()
    (tmp_path / "manifests" / "crd.yaml").write_text("kind: Other\n")
    assert main(["--check"], tmp_path) == 1
    message = "manifests/crd.yaml has drifted from the models: run `python -m unimrg_api.generate`\n"
    assert capsys.readouterr().err == message
