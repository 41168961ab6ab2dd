"""What a job chooses is built before anything runs; files that a published size needs are found, or named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from tests.support.local_jobs import tiny_job
from unimrg_api.environment import PodEnvironment
from unimrg_api.errors import JobError, UserError
from unimrg_api.exit_codes import ExitCode
from unimrg_trainer.engine import choices
from unimrg_trainer.engine.choices import check_components, open_family, provide_files
from unimrg_trainer.launch.inputs import check_custom_names
from unimrg_trainer.models.registry import find_family

PUBLISHED = {"harmon": {"variant": "0.5B"}}
FILES = ("kl16.safetensors", "qwen2.5-tokenizer.json")


def chosen(model: dict[str, Any], tmp_path: Path) -> tuple[Any, PodEnvironment]:
    return tiny_job(tmp_path, model=model)[0], PodEnvironment(cache=tmp_path / "cache", spec_base=tmp_path)


@pytest.mark.parametrize("assets", [None, "file://files"])
def test_a_missing_file_is_named_with_its_remedy(assets: str | None, tmp_path: Path) -> None:
    job, env = chosen({**PUBLISHED, **({"assets": assets} if assets else {})}, tmp_path)
    with pytest.raises(JobError) as error:
        check_components(job, env)
    (problem,) = error.value.problems
    assert problem.path == "spec.model" and FILES[0] in problem.message and problem.remedy
    assert ("cache/harmon" if assets is None else "/files") in problem.message
    assert error.value.exit_code is ExitCode.INPUT_MISSING


def test_files_of_the_job_are_where_the_family_looks(tmp_path: Path) -> None:
    job, env = chosen({**PUBLISHED, "assets": "file://files"}, tmp_path)
    (tmp_path / "files").mkdir()
    for name in FILES:
        (tmp_path / "files" / name).write_text(name)
    check_components(job, env)
    family: Any = open_family(job, env)
    for _ in range(2):  # another rank, or another attempt
        provide_files(job, env, family)
    assert [asset.find(family.assets).read_text() for asset in family.needed_files()] == list(FILES)
    assert not (tmp_path / "cache" / "harmon").exists(), "what was imported there stays"
    (tmp_path / "files" / FILES[1]).unlink()
    with pytest.raises(UserError, match=FILES[1]):
        provide_files(job, env, family)


@pytest.mark.parametrize(("fits", "named"), [(True, ""), (False, "does not fit the model")])
def test_first_weights_of_another_model_are_refused_by_their_header(fits: bool, named: str, tmp_path: Path) -> None:
    family = find_family("harmon" if fits else "openuni", {"variant": "Tiny"})
    save_file({name: t.detach().clone() for name, t in family.build().named_parameters()}, tmp_path / "w.safetensors")
    job, env = chosen({"harmon": {"variant": "Tiny"}, "init": "file://w.safetensors"}, tmp_path)
    if fits:
        check_components(job, env)
    else:
        with pytest.raises(JobError, match=named) as error:
            check_components(job, env)
        assert str(error.value).count("spec.model.init: ") == 1


@pytest.mark.parametrize(
    ("model", "reported"), [({"custom": {"name": "toy"}}, True), ({"harmon": {"variant": "Tiny"}}, False)]
)
def test_only_an_installed_package_is_reported_as_failing(
    model: dict[str, Any], reported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(choices, "find_family", fail)
    with pytest.raises(JobError if reported else RuntimeError, match="a defect") as error:
        check_components(*chosen(model, tmp_path))
    assert ("the installed package fails" in str(error.value)) == reported


def test_an_installed_family_with_all_that_learns_frozen_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = find_family("showo", {"variant": "Tiny"})
    monkeypatch.setattr(choices, "find_family", lambda *_: family)
    for frozen, message in (["Projector"], None), (["Projector", "LanguageModel"], "freezes everything"):
        parts = [{"name": name, "learningRateScale": "0"} for name in frozen]
        job, _ = tiny_job(tmp_path, model={"custom": {"name": "toy"}}, training__parts=parts)
        env = PodEnvironment(cache=tmp_path / "cache", spec_base=tmp_path)
        if message is None:
            check_components(job, env)
        else:
            with pytest.raises(JobError, match=message) as error:
                check_components(job, env)
            assert [problem.path for problem in error.value.problems] == ["spec.training.parts"]


def test_every_missing_file_of_a_suite_is_named_at_once_with_its_md5(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "MMVP.tsv").write_text("index\tquestion\n")
    evaluate = {"suite": "Understanding", "files": "file://files"}
    job, _ = tiny_job(tmp_path, stages__evaluate=evaluate)
    with pytest.raises(JobError) as error:
        check_custom_names(job, PodEnvironment(cache=tmp_path / "cache", spec_base=tmp_path))
    problems = {problem.message: problem for problem in error.value.problems}
    texts = [f"{message} {problem.remedy}" for message, problem in problems.items()]
    for file, md5 in {"MMBench_DEV_EN": "b6caf113", "MMVP": "8cb732b1", "VSR-zeroshot": "5ff5e499"}.items():
        assert any(f"{file}.tsv" in text and md5 in text for text in texts), texts
    assert len(texts) == 5 and {problem.path for problem in problems.values()} == {"spec.stages.evaluate.suite"}
