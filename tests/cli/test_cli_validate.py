"""`unimrg validate`: every problem with its place, the right exit code, at once, and without heavy imports."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import Unimrg, piped
from tests.support.good_jobs import GOOD_JOB

REPOSITORY = Path(__file__).parents[2]
PHOTOGRAPHS = GOOD_JOB.replace("    shards:", "      - images: {uri: file://photographs}\n    shards:")


def write(folder: Path, text: str) -> Path:
    file = folder / "job.yaml"
    file.write_text(text)
    return file


def test_a_good_job_is_called_good(unimrg: Unimrg, tmp_path: Path) -> None:
    ended = unimrg("validate", write(tmp_path, GOOD_JOB))
    assert (ended.code, ended.err) == (0, "")
    assert "good is a valid job" in ended.out
    assert "note: a cluster would refuse spec.data.shards, spec.checkpoint.uri: a file:// URI" in ended.out


def test_a_job_from_a_pipe_is_read_once(unimrg: Unimrg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PHOTOGRAPHS.replace("nodes: 1", "nodes: 0")
    with piped(text) as pipe:
        ended = unimrg("validate", pipe)
    ended.refused(
        64,
        f"{pipe}:26:12: spec.trainer.nodes: must be a whole number from 1 to 64",
        f"the folder {tmp_path}/photographs does not exist",
    )
    assert "has 2 problems" in ended.err, "a wrong field and a missing input are shown together"
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "a.jpg").touch()
    with piped(PHOTOGRAPHS) as pipe:
        assert unimrg("validate", pipe).code == 0


def test_every_example_is_valid(unimrg: Unimrg, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    (tmp_path / "examples/hed.safetensors").touch()  # what examples/photographs.yaml says how to get
    found = (tmp_path / "examples").rglob("*.yaml")
    examples = sorted(example for example in found if "kind: UniMRGJob" in example.read_text())
    assert len(examples) > 9
    for example in examples:
        ended = unimrg("validate", example)
        assert ended.code == 0, ended.err


def test_a_problem_begins_its_line_like_a_compilers_message(unimrg: Unimrg, tmp_path: Path) -> None:
    file = write(tmp_path, GOOD_JOB.replace("rowsPerObjective: 16", "rowsPerObjective: -16"))
    first, second, *rest = unimrg("validate", file).err.splitlines()
    assert first.startswith(f"{file}:13:31: spec.training.batch.rowsPerObjective: must be a whole number from 1 to")
    assert (second, rest) == ("    write e.g. rowsPerObjective: 16", [])


def test_a_misspelt_field_is_one_problem(unimrg: Unimrg, tmp_path: Path) -> None:
    ended = unimrg("validate", write(tmp_path, GOOD_JOB.replace("    uri: file://run\n", "    url: file://run\n")))
    ended.refused(64, "spec.checkpoint.url: there is no field 'url' here", "did you mean uri?")
    assert "missing" not in ended.err


def test_readers_of_numbers_disagree_and_the_remedy_is_that_of_the_field(unimrg: Unimrg, tmp_path: Path) -> None:
    ended = unimrg("validate", write(tmp_path, GOOD_JOB.replace("seed: 42", "seed: 042")))
    ended.refused(64, "spec.training.seed: 042 is not the same number for kubectl", "\n    write seed: 42\n")
    assert "quote it" not in ended.err
    text = GOOD_JOB.replace("{experiment: tests}", "{experiment: 042}")
    unimrg("validate", write(tmp_path, text)).refused(64, '\n    write experiment: "042"\n')


def test_what_programs_read_about_a_bad_job_is_on_standard_output(unimrg: Unimrg, tmp_path: Path) -> None:
    file = write(tmp_path, GOOD_JOB.replace("nodes: 1", "nodes: 0"))
    ended = unimrg("validate", file, "-o", "json")
    assert ended.code == 64
    (problem,) = json.loads(ended.out)["problems"]
    assert (problem["path"], problem["line"], problem["exitCode"]) == ("spec.trainer.nodes", 26, 64)
    found = json.loads(unimrg("validate", write(tmp_path, GOOD_JOB), "-o", "json").out)
    assert (found["valid"], found["job"], found["problems"]) == (True, "good", [])


def test_a_missing_folder_of_photographs_is_a_missing_input(unimrg: Unimrg, tmp_path: Path) -> None:
    file = write(tmp_path, PHOTOGRAPHS)
    text = f"{file}:35:23: spec.data.sources[1].images.uri: the folder {tmp_path}/photographs does not exist"
    unimrg("validate", file).refused(66, text)
    (tmp_path / "photographs").mkdir()
    assert "holds no image" in unimrg("validate", file).err
    (tmp_path / "photographs" / ".hidden.jpg").write_bytes(b"")
    assert "holds no image" in unimrg("validate", file).err
    (tmp_path / "photographs" / "one.JPG").write_bytes(b"")
    assert unimrg("validate", file).code == 0


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EACCES, "check its permissions"), (errno.ENAMETOOLONG, "choose a shorter path")]
)
def test_a_folder_that_cannot_be_looked_at_is_a_problem_and_no_bug(
    number: int, remedy: str, unimrg: Unimrg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> bool:
        raise OSError(number, os.strerror(number))

    file = write(tmp_path, PHOTOGRAPHS)
    monkeypatch.setattr(Path, "is_dir", refuse)
    ended = unimrg("validate", file)
    ended.refused(66, f"spec.data.sources[1].images.uri: {tmp_path}/photographs cannot be looked at")
    assert remedy in ended.err and "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("    harmon: {", "    init: file://weights\n    harmon: {", "spec.model.init"),
        (
            "    sources:\n      - scenes: {train: 100, heldOut: 10, imageSize: 48, seed: 7}\n",
            "",
            "spec.data.shards[0]",
        ),
        ("checkpoints: Kept", "suite: Quick, files: file://weights", "spec.stages.evaluate.files"),
        (
            "[spatial: {questions: 8}]",
            "[tsv: {file: file://weights, kind: YesNo}]",
            "spec.stages.evaluate.benchmarks[0].tsv.file",
        ),
    ],
)
def test_other_inputs_are_looked_for_too(old: str, new: str, path: str, unimrg: Unimrg, tmp_path: Path) -> None:
    unimrg("validate", write(tmp_path, GOOD_JOB.replace(old, new))).refused(66, f"{path}: ")
    (tmp_path / "weights").mkdir()
    (tmp_path / "data").mkdir()
    assert unimrg("validate", tmp_path / "job.yaml").code == 0


@pytest.mark.parametrize(("name", "words"), [("nowhere.yaml", "no such file"), ("", "this is a folder")])
def test_a_file_that_is_not_there(name: str, words: str, unimrg: Unimrg, tmp_path: Path) -> None:
    unimrg("validate", tmp_path / name).refused(66, words)


@pytest.mark.parametrize(
    "arguments",
    ["validate a b", "dance", "validate --loud a", "run a --processes 0", "ckpt", "submit a --dry-run --wait"],
)
def test_wrong_usage_ends_with_64(arguments: str, unimrg: Unimrg) -> None:
    assert unimrg(*arguments.split()).code == 64


def test_an_unexpected_exception_is_called_a_bug(
    unimrg: Unimrg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError("the sky fell")

    monkeypatch.setattr("unimrg_api.load.read_document", fail)
    ended = unimrg("validate", tmp_path)
    ended.refused(70, "Traceback", "the sky fell")
    assert "this is a bug" in ended.err.splitlines()[-1]


def test_help_and_version_are_shown(unimrg: Unimrg) -> None:
    commands = (
        "init",
        "validate",
        "run",
        "sweep",
        "status",
        "crd",
        "render",
        "submit",
        "logs",
        "wait",
        "cancel",
        "ckpt",
    )
    for command in ([], *([name] for name in commands), ["ckpt", "ls"]):
        ended = unimrg(*command, "--help")
        assert ended.code == 0
        assert "Usage: unimrg" in ended.out
    assert unimrg("--version").out.startswith("unimrg 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown_for_a_shell(shell: str, unimrg: Unimrg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: shell, raising=False)
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell, raising=False)
    ended = unimrg("--show-completion")
    assert ended.code == 0, ended.err
    assert "_UNIMRG_COMPLETE" in ended.out


WATCHED = """
import sys
sys.argv = ["unimrg", *sys.argv[1:]]
from unimrg_cli.main import main
try:
    main()
except SystemExit as end:
    code = end.code or 0
banned = {"torch", "numpy", "mlflow", "transformers", "cv2", "matplotlib", "safetensors", "kubernetes"}
heavy = banned & set(sys.modules)
sys.stderr.write(f"heavy: {sorted(heavy)}")
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["submit", "--help"],
        ["validate", "FILE"],
        ["plan", "FILE"],
        ["status", "FILE"],
        ["ckpt", "ls", "FILE"],
        ["crd"],
    ],
)
def test_what_only_looks_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    file = str(write(tmp_path, GOOD_JOB))
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *[file if item == "FILE" else item for item in arguments]],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "heavy: []"
