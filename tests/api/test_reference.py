"""The page that documents the job says what the models say."""

from __future__ import annotations

from pathlib import Path

from unimrg_api.reference import DEFAULT_PATH, main, reference

REPOSITORY = Path(__file__).parents[2]


def test_the_reference_has_not_drifted() -> None:
    written = (REPOSITORY / DEFAULT_PATH).read_text(encoding="utf-8")
    assert written == reference(), "run `python -m unimrg_api.reference --write`"


def test_writing_gives_what_printing_gives(tmp_path: Path) -> None:
    main(["--write", str(tmp_path / "deep" / "job.md")])
    assert (tmp_path / "deep" / "job.md").read_text(encoding="utf-8") == reference()


def test_the_page_names_bounds_choices_and_defaults() -> None:
    page = reference()
    assert "| `spec.trainer.nodes` | integer, 1 to 64 | `1` |" in page
    assert '| `spec.training.optimizer.learningRate` | decimal string | `"1e-5"` |' in page
    assert "| `spec.objectives[].name` | `Understanding`, `Pixel`, `Depth`, `Segmentation` | required |" in page
