"""The folder of a step: trainer, operator and command line read each other's."""

from __future__ import annotations

import pytest

from unimrg_api.commits import step_folder, step_in


@pytest.mark.parametrize("step", [1, 12, 99_999_999, 100_000_000])
def test_a_step_is_found_again_in_its_folder(step: int) -> None:
    assert step_in(step_folder(step)) == step
    assert step_in(f"s3://bucket/run/{step_folder(step).rstrip('/')}") == step


@pytest.mark.parametrize("text", ["", "ckpt/step-", "step-00000012", "ckpt/step-" + "1" * 13])
def test_what_names_no_step_is_none(text: str) -> None:
    assert step_in(text) is None
