"""`unimrg init`: every first job is valid, says what its fields are, and is only written where nothing is."""

from __future__ import annotations

import errno
import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Unimrg
from unimrg_api.load import load_job
from unimrg_api.locality import cluster_problems
from unimrg_cli import job_commands

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
FAMILIES, METHODS = ("harmon", "openuni", "showo"), ("SFT", "RecA", "UniMRG")


@pytest.mark.parametrize("place", ["laptop", "cluster"])
def test_every_combination_is_a_valid_job_of_its_place(place: str, unimrg: Unimrg, tmp_path: Path) -> None:
    for family, method in product(FAMILIES, METHODS):
        file = tmp_path / f"{family}-{method}.yaml"
        ended = unimrg("init", file, "--family", family, "--method", method, "--place", place)
        assert ended.code == 0, ended.err
        job = load_job(file)
        assert (job.spec.method, job.spec.model.family()[0]) == (method, family)
        assert (cluster_problems(job) == []) == (place == "cluster")
        ended = unimrg("validate", file)
        assert ended.code == 0, ended.err
        assert ("note: your-bucket, s3.example, mlflow.example stand for names of yours" in ended.out) == (
            place == "cluster"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_job_of_a_published_size_trains_as_the_recipe_says(family: str, unimrg: Unimrg, tmp_path: Path) -> None:
    unimrg("init", tmp_path / "job.yaml", "--family", family, "--method", "UniMRG", "--place", "cluster")
    job, recipe = load_job(tmp_path / "job.yaml").spec, load_job(RECIPES / f"unimrg-{family}.yaml").spec
    assert job.model.family() == recipe.model.family()
    assert (job.training.optimizer, job.training.schedule) == (recipe.training.optimizer, recipe.training.schedule)
    assert (job.training.batch, job.training.stop_step) == (recipe.training.batch, recipe.training.stop_step)


def test_a_family_has_its_published_spelling_and_a_folder_is_no_file(unimrg: Unimrg, tmp_path: Path) -> None:
    assert unimrg("init", tmp_path / "job.yaml", "--family", "Show-o").code == 0
    unimrg("init", tmp_path).refused(64, f"{tmp_path} is a folder", "give a file's name")


def test_comments_say_what_the_reference_says(unimrg: Unimrg, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    assert unimrg("init", file).code == 0
    lines = file.read_text().splitlines()
    assert lines[lines.index("      totalSteps: 150") - 1] == (
        "      # Optimiser steps of the whole schedule; at its end the cosine is zero."
    )
    assert max(map(len, lines[lines.index("kind: UniMRGJob") :])) <= 120


def test_a_file_that_is_there_is_kept(unimrg: Unimrg, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("mine")
    unimrg("init", file).refused(64, "is there already", "--force")
    assert file.read_text() == "mine"
    found = json.loads(unimrg("init", file, "--force", "--family", "ShowO", "-o", "json").out)
    assert (found["family"], found["job"], load_job(file).metadata.name) == ("showo", "unimrg-showo", "unimrg-showo")
    unimrg("init", tmp_path / "no" / "job.yaml").refused(64, "cannot be written")
    unimrg("init", file, "--family", "gpt").refused(64, "none of harmon, openuni, showo")
    unimrg("init", tmp_path / "other.yaml", "--name", "No Name").refused(64, "metadata.name")
    assert not (tmp_path / "other.yaml").exists()


def test_on_a_terminal_what_is_not_given_is_asked(
    unimrg: Unimrg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        def __init__(self) -> None:
            self.answers = ["openuni", "", "cluster"]

        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr(job_commands.typer, "prompt", lambda *_, default, **__: terminal.answers.pop(0) or default)
    file = tmp_path / "job.yaml"
    assert unimrg("init", file).code == 0
    job = load_job(file)
    assert (job.spec.model.family()[0], job.spec.method, job.spec.trainer.gpus_per_node) == ("openuni", "UniMRG", 8)


def test_a_folder_without_images_is_named_and_one_that_cannot_be_read_refused(
    unimrg: Unimrg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own/deep").mkdir(parents=True)
    assert (
        f"{tmp_path / 'own'} holds no image" in unimrg("init", tmp_path / "job.yaml", "--images", tmp_path / "own").out
    )
    scan = os.scandir

    def denied(path: Any) -> Any:  # a test that runs as root may read everything
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    ended = unimrg("init", tmp_path / "other.yaml", "--images", tmp_path / "own")
    ended.refused(64, f"{tmp_path / 'own/deep'} cannot be read: Permission denied", "permissions")
    assert not (tmp_path / "other.yaml").exists()


def test_a_job_in_the_folder_of_images_is_refused(unimrg: Unimrg, tmp_path: Path) -> None:
    ended = unimrg("init", tmp_path / "job.yaml", "--images", tmp_path)
    ended.refused(64, "would lie in the folder of images", "beside that folder")
    assert not list(tmp_path.iterdir())
